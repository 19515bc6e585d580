// SPDX-License-Identifier: Apache-2.0

// Command idiomatic does the job as the documentation of amqp091-go and pgx suggests: workers that share a queue, and
// one transaction for each message. Run as idiomatic AMQP_URL DATABASE_URL MESSAGES WORKERS; prints one JSON line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"

	"orderflow/bench/job"
)

// A worker waits for its commit most of the time; with two messages each none waits for the broker too.
const prefetchPerWorker = 2

var errReturned = errors.New("an event was returned: no queue is bound for it")

type captured struct {
	EventType string    `json:"event_type"`
	OrderID   uuid.UUID `json:"order_id"`
	ChargeID  string    `json:"charge_id"`
}

type worker struct {
	pool      *pgxpool.Pool
	publisher *amqp.Channel
	returns   <-chan amqp.Return
}

func main() {
	amqpURL, databaseURL, numbers := job.Arguments(2)
	messages, workers := int64(numbers[0]), numbers[1]
	ctx, watch := context.Background(), job.Start()
	pool := connect(ctx, databaseURL, workers)
	publishing, publisher, returns := job.Publisher(amqpURL, workers)
	consuming, consumer, deliveries := job.Consume(amqpURL, prefetchPerWorker*workers)

	var handled atomic.Int64
	var group sync.WaitGroup
	done := make(chan struct{})
	for range workers {
		group.Go(func() {
			own := worker{pool, publisher, returns}
			for delivery := range deliveries {
				job.Check(own.handle(ctx, delivery))
				if handled.Add(1) == messages {
					close(done)
				}
			}
		})
	}
	<-done
	seconds := watch.Seconds()
	job.Check(consumer.Cancel("bench", false))
	group.Wait()
	job.Check(consuming.Close())
	job.Check(publishing.Close())
	pool.Close()
	watch.Print(seconds)
}

func connect(ctx context.Context, url string, connections int) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(url)
	job.Check(err)
	config.MaxConns = int32(connections)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	job.Check(err)
	return pool
}

// handle stores the effect of a message, publishes its event, and acknowledges it when the event is confirmed.
func (w worker) handle(ctx context.Context, delivery amqp.Delivery) error {
	var event job.Reserved
	if err := json.Unmarshal(delivery.Body, &event); err != nil {
		return err
	}
	id := uuid.New()
	body, err := json.Marshal(captured{"PAYMENT_CAPTURED", event.OrderID, "c"})
	if err != nil {
		return err
	}
	fresh, err := w.store(ctx, delivery.MessageId, event, id, body)
	if err != nil {
		return err
	}
	if fresh {
		if err := w.publish(ctx, id, body); err != nil {
			return err
		}
		if _, err := w.pool.Exec(ctx, "delete from peer_outbox where id = $1", id); err != nil {
			return err
		}
	}
	return delivery.Ack(false)
}

// store is the transaction; false for a message that was handled before.
func (w worker) store(ctx context.Context, messageID string, event job.Reserved, id uuid.UUID, body []byte) (bool, error) {
	fresh := false
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		claimed, err := tx.Exec(ctx, "insert into peer_inbox (message_id) values ($1) on conflict do nothing", messageID)
		if err != nil || claimed.RowsAffected() == 0 {
			return err
		}
		fresh = true
		_, err = tx.Exec(ctx, "insert into peer_state values ($1, $2)", event.OrderID, event.TotalAmount)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "insert into peer_outbox values ($1, $2, $3)", id, job.CapturedKey, body)
		return err
	})
	return fresh, err
}

// publish returns when the broker has confirmed the event and has not returned it.
func (w worker) publish(ctx context.Context, id uuid.UUID, body []byte) error {
	message := amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: id.String(), Body: body,
	}
	confirmation, err := w.publisher.PublishWithDeferredConfirmWithContext(
		ctx, job.Exchange, job.CapturedKey, true, false, message)
	if err != nil {
		return err
	}
	acked, err := confirmation.WaitContext(ctx)
	if err != nil {
		return err
	}
	if len(w.returns) > 0 {
		return errReturned
	}
	if !acked {
		return errors.New("the broker refused an event")
	}
	return nil
}
