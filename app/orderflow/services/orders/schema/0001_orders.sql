-- Orders, their history, the API's view of the stock, and the requests already answered by idempotency key.

create table orders (
    order_id      uuid        primary key,
    user_id       text        not null,
    items         jsonb       not null,          -- [{sku, quantity, unit_price}]
    total_amount  bigint      not null check (total_amount >= 0),   -- minor units
    currency      text        not null,
    status        text        not null check (status in ('accepted', 'reserved', 'confirmed', 'rejected', 'cancelled')),
    reason        text,
    accepted_at   timestamptz not null,
    hold_until    timestamptz not null,          -- cancelled then, unless it is final
    final_at      timestamptz,
    trace         jsonb       not null,          -- trace headers of the request
    check ((final_at is not null) = (status in ('confirmed', 'rejected', 'cancelled')))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
create index orders_open on orders (hold_until) where final_at is null;
create index orders_final_at on orders (final_at) where final_at is not null;

create table order_history (
    id         bigint      generated always as identity,   -- keeps the steps of one transaction in order
    order_id   uuid        not null,
    status     text        not null,
    reason     text,
    message_id uuid,                             -- the message that caused it; null for the request and an expired hold
    at         timestamptz not null,
    primary key (order_id, status)
);

create table availability (
    sku           text    primary key,
    on_hand       integer not null,
    available     integer not null,
    unit_price    bigint  not null,
    currency      text    not null,
    stock_version bigint  not null
) with (fillfactor = 50);

create table idempotency (
    client     text        not null,             -- name of the API key
    key        text        not null,
    body_hash  bytea       not null,
    order_id   uuid        not null,
    response   bytea       not null,             -- the body of the first response
    created_at timestamptz not null,
    primary key (client, key)
);
create index idempotency_created_at on idempotency using brin (created_at);
