// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"orderflow/bench/job"
)

// The statements of messaging/consume/inbox.py, messaging/publish/outbox.py and tests/bench/ours.py.
const (
	claim = `
with claimed as (
    insert into inbox (queue, message_id, received_at)
    select $1, id, $2 from unnest($3::uuid[]) as id
    on conflict do nothing returning message_id)
select id from unnest($3::uuid[]) as id where not exists (select from claimed where message_id = id)`
	apply  = `insert into bench_state select * from unnest($1::uuid[], $2::bigint[])`
	forget = `delete from outbox where id = any($1::uuid[])`
	store  = `
insert into outbox (id, exchange, routing_key, properties, body, created_at, leased_until, leased_by)
select id, exchange, routing_key, properties::jsonb, body, statement_timestamp(),
       statement_timestamp() + make_interval(secs => 10), 0
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[])
     as rows (id, exchange, routing_key, properties, body)`
)

// database is one connection, for one goroutine. Only messages of the owner count.
type database struct {
	connection *pgx.Conn
	owner      string
}

func open(ctx context.Context, url, owner string) database {
	connection, err := pgx.Connect(ctx, url)
	job.Check(err)
	return database{connection, owner}
}

// apply is the transaction of a batch: claim, change the state, delete what is confirmed, store the events. It returns
// the events, to be published.
func (d database) apply(ctx context.Context, batch []amqp.Delivery, confirmed [][16]byte) ([]outgoing, error) {
	messages, err := decode(batch, d.owner)
	if err != nil {
		return nil, err
	}
	var events []outgoing
	err = pgx.BeginFunc(ctx, d.connection, func(tx pgx.Tx) error {
		now := time.Now().UTC()
		fresh, err := claimed(ctx, tx, messages, now)
		if err != nil {
			return err
		}
		if err := change(ctx, tx, fresh); err != nil {
			return err
		}
		if len(confirmed) > 0 {
			if _, err := tx.Exec(ctx, forget, confirmed); err != nil {
				return err
			}
		}
		if events, err = caused(fresh, now); err != nil {
			return err
		}
		return insert(ctx, tx, events)
	})
	return events, err
}

// deleteConfirmed deletes events that were confirmed since the last batch.
func (d database) deleteConfirmed(ctx context.Context, confirmed [][16]byte) error {
	_, err := d.connection.Exec(ctx, forget, confirmed)
	return err
}

// claimed are the messages that were not handled before.
func claimed(ctx context.Context, tx pgx.Tx, messages []incoming, now time.Time) ([]incoming, error) {
	ids := make([][16]byte, len(messages))
	for n, message := range messages {
		ids[n] = message.id
	}
	sortIDs(ids)
	rows, err := tx.Query(ctx, claim, job.Input, now, ids)
	if err != nil {
		return nil, err
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(known) == 0 {
		return messages, err
	}
	return without(messages, known), nil
}

func change(ctx context.Context, tx pgx.Tx, messages []incoming) error {
	orders, amounts := make([][16]byte, len(messages)), make([]int64, len(messages))
	for n, message := range messages {
		orders[n], amounts[n] = message.event.OrderID, message.event.TotalAmount
	}
	_, err := tx.Exec(ctx, apply, orders, amounts)
	return err
}

func insert(ctx context.Context, tx pgx.Tx, events []outgoing) error {
	count := len(events)
	ids, exchanges, keys := make([][16]byte, count), make([]string, count), make([]string, count)
	properties, bodies := make([]string, count), make([][]byte, count)
	for n, event := range events {
		text, err := json.Marshal(event.properties)
		if err != nil {
			return err
		}
		ids[n], exchanges[n], keys[n] = event.id, job.Exchange, job.CapturedKey
		properties[n], bodies[n] = string(text), event.body
	}
	_, err := tx.Exec(ctx, store, ids, exchanges, keys, properties, bodies)
	return err
}
