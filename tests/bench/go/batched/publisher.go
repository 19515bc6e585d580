// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"orderflow/bench/job"
)

// publisher publishes in the background, with at most “window“ events unconfirmed, and collects what was confirmed.
type publisher struct {
	connection *amqp.Connection
	channel    *amqp.Channel
	user       string
	returns    <-chan amqp.Return
	batches    chan []outgoing
	pending    chan pending
	finished   chan struct{}

	lock      sync.Mutex
	confirmed [][16]byte
}

// pending is an event that was published and is not confirmed yet.
type pending struct {
	id           [16]byte
	messageID    string
	confirmation *amqp.DeferredConfirmation
}

func newPublisher(amqpURL string) *publisher {
	connection, channel, returns := job.Publisher(amqpURL, window)
	p := &publisher{
		connection: connection,
		channel:    channel,
		user:       job.User(amqpURL),
		returns:    returns,
		// One batch waits while one is written: more is not taken from the queue.
		batches:  make(chan []outgoing, 1),
		pending:  make(chan pending, window),
		finished: make(chan struct{}),
	}
	go p.write()
	go p.collect()
	return p
}

// publish hands over a committed batch; it waits while the window is full.
func (p *publisher) publish(events []outgoing) { p.batches <- events }

// confirmedSoFar are the events that were confirmed since the last call: their rows can be deleted.
func (p *publisher) confirmedSoFar() [][16]byte {
	p.lock.Lock()
	defer p.lock.Unlock()
	confirmed := p.confirmed
	p.confirmed = nil
	return confirmed
}

// finish waits until everything is confirmed.
func (p *publisher) finish() {
	close(p.batches)
	<-p.finished
}

func (p *publisher) write() {
	for events := range p.batches {
		for _, event := range events {
			confirmation, err := p.channel.PublishWithDeferredConfirm(
				job.Exchange, job.CapturedKey, true, false, p.message(event))
			job.Check(err)
			p.pending <- pending{event.id, event.properties.MessageID, confirmation}
		}
	}
	close(p.pending)
}

// collect takes the confirms in the order of publishing. A returned event stays in the outbox, as does a refused one.
func (p *publisher) collect() {
	returned := make(map[string]struct{})
	for next := range p.pending {
		<-next.confirmation.Done()
		for len(p.returns) > 0 {
			returned[(<-p.returns).MessageId] = struct{}{}
		}
		if _, unroutable := returned[next.messageID]; unroutable || !next.confirmation.Acked() {
			continue
		}
		p.lock.Lock()
		p.confirmed = append(p.confirmed, next.id)
		p.lock.Unlock()
	}
	close(p.finished)
}

func (p *publisher) message(event outgoing) amqp.Publishing {
	headers := make(amqp.Table, len(event.properties.Headers))
	for name, value := range event.properties.Headers {
		headers[name] = value
	}
	return amqp.Publishing{
		Headers:       headers,
		ContentType:   event.properties.ContentType,
		DeliveryMode:  amqp.Persistent,
		CorrelationId: event.properties.CorrelationID,
		MessageId:     event.properties.MessageID,
		Timestamp:     time.Unix(event.properties.Timestamp, 0),
		Type:          event.properties.Type,
		UserId:        p.user,
		AppId:         event.properties.AppID,
		Body:          event.body,
	}
}
