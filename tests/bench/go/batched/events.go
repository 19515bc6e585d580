// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"orderflow/bench/job"
)

// incoming is a message that the job handles.
type incoming struct {
	id    uuid.UUID
	event job.Reserved
}

// captured is the event that a message causes.
type captured struct {
	EventType   string    `json:"event_type"`
	Timestamp   time.Time `json:"timestamp"`
	OrderID     uuid.UUID `json:"order_id"`
	UserID      string    `json:"user_id"`
	TotalAmount int64     `json:"total_amount"`
	Currency    string    `json:"currency"`
	ChargeID    string    `json:"charge_id"`
	Version     int       `json:"version"`
}

// properties are stored with the event, because another process may have to publish it.
type properties struct {
	MessageID     string            `json:"message_id"`
	CorrelationID string            `json:"correlation_id"`
	Type          string            `json:"type"`
	Timestamp     int64             `json:"timestamp"`
	AppID         string            `json:"app_id"`
	ContentType   string            `json:"content_type"`
	Headers       map[string]string `json:"headers"`
}

// outgoing is a stored event.
type outgoing struct {
	id         uuid.UUID
	properties properties
	body       []byte
}

// decode reads a batch, each message id once, and refuses a message that its owner did not publish.
func decode(batch []amqp.Delivery, owner string) ([]incoming, error) {
	messages, seen := make([]incoming, 0, len(batch)), make(map[uuid.UUID]struct{}, len(batch))
	for _, delivery := range batch {
		id, err := uuid.Parse(delivery.MessageId)
		if err != nil {
			return nil, err
		}
		if _, known := seen[id]; known {
			continue
		}
		seen[id] = struct{}{}
		message := incoming{id: id}
		if err := json.Unmarshal(delivery.Body, &message.event); err != nil {
			return nil, err
		}
		if delivery.UserId != owner || delivery.RoutingKey != job.ReservedKey {
			return nil, fmt.Errorf("message %s is forged", id)
		}
		messages = append(messages, message)
	}
	return messages, nil
}

// caused are the events of these messages.
func caused(messages []incoming, now time.Time) ([]outgoing, error) {
	events := make([]outgoing, 0, len(messages))
	for _, message := range messages {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		event := captured{
			"PAYMENT_CAPTURED", now, message.event.OrderID, message.event.UserID, message.event.TotalAmount,
			message.event.Currency, "c", 1,
		}
		body, err := json.Marshal(event)
		if err != nil {
			return nil, err
		}
		events = append(events, outgoing{id, describe(id, message, now), body})
	}
	return events, nil
}

func describe(id uuid.UUID, cause incoming, now time.Time) properties {
	return properties{
		MessageID:     id.String(),
		CorrelationID: cause.event.OrderID.String(),
		Type:          "PAYMENT_CAPTURED",
		Timestamp:     now.Unix(),
		AppID:         "bench",
		ContentType:   "application/json",
		Headers: map[string]string{
			"x-occurred-at":  now.Format(time.RFC3339Nano),
			"x-causation-id": cause.id.String(),
		},
	}
}
