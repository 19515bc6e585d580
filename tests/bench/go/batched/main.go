// SPDX-License-Identifier: Apache-2.0

// Command batched does the job with the batch design of the consumer core: up to 250 messages are one transaction with
// the core's own tables and statements, one acknowledgement follows, and the events are published from memory while the
// next batch is handled. It shows what that design gives in a compiled language.
// Run as batched AMQP_URL DATABASE_URL MESSAGES; prints one JSON line.
package main

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"orderflow/bench/job"
)

// The defaults of the core.
const (
	batchMessages = 250
	batchBytes    = 4 << 20
	linger        = 5 * time.Millisecond
	window        = 1000
	prefetch      = 1000
)

func main() {
	amqpURL, databaseURL, numbers := job.Arguments(1)
	messages := numbers[0]
	ctx, watch := context.Background(), job.Start()
	database := open(ctx, databaseURL, job.User(amqpURL))
	publisher := newPublisher(amqpURL)
	connection, channel, deliveries := job.Consume(amqpURL, prefetch)

	for handled := 0; handled < messages; {
		batch := receive(deliveries)
		confirmed := publisher.confirmedSoFar()
		events, err := database.apply(ctx, batch, confirmed)
		job.Check(err)
		job.Check(channel.Ack(batch[len(batch)-1].DeliveryTag, true))
		publisher.publish(events)
		handled += len(batch)
	}
	publisher.finish()
	seconds := watch.Seconds()
	job.Check(database.deleteConfirmed(ctx, publisher.confirmedSoFar()))
	job.Check(connection.Close())
	job.Check(publisher.connection.Close())
	job.Check(database.connection.Close(ctx))
	watch.Print(seconds)
}

// receive returns a batch when it is full, or when the linger time since its first message is over.
func receive(deliveries <-chan amqp.Delivery) []amqp.Delivery {
	first := <-deliveries
	batch, size := append(make([]amqp.Delivery, 0, batchMessages), first), len(first.Body)
	end := time.NewTimer(linger)
	defer end.Stop()
	for len(batch) < batchMessages && size < batchBytes {
		select {
		case delivery := <-deliveries:
			batch = append(batch, delivery)
			size += len(delivery.Body)
		case <-end.C:
			return batch
		}
	}
	return batch
}
