-- A row that the broker nacked, because one of its queues is full, has an infinite lease: only a slow start takes it, a
-- few rows at a time. Its refused_at is the time of its last nack, so that the rows of a routing key take turns.

create index outbox_nacked on outbox (routing_key, refused_at, id)
    where reason = 'nacked' and leased_until = 'infinity';
