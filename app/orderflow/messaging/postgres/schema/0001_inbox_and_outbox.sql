-- The messaging core's tables, in every service's database.

create table inbox (
    queue       text        not null,
    message_id  uuid        not null,
    received_at timestamptz not null,
    primary key (queue, message_id)
);
create index inbox_received_at on inbox using brin (received_at);

create table outbox (
    id           uuid        primary key,   -- the message id on the wire
    exchange     text        not null,
    routing_key  text        not null,
    properties   jsonb       not null,
    body         bytea       not null,
    created_at   timestamptz not null,
    leased_until timestamptz not null       -- until then only the process that wrote or relayed the row publishes it
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index outbox_leased_until on outbox (leased_until);
