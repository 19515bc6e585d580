-- One row per order, for ever: an order is charged at most once, and refunded at most once.

create table charges (
    order_id      uuid        primary key,
    state         text        not null check (state in ('requested', 'unknown', 'captured', 'declined', 'cancelling',
                                                        'cancelled', 'refund_requested', 'refunded')),
    user_id       text        not null,
    amount        bigint      not null check (amount >= 0),   -- minor units
    currency      text        not null,
    payment_token text        not null,                       -- empty when no call needs it any more, or ever did
    charge_id     text,                                       -- the provider's, once it is known
    reason        text,                                       -- why it was declined or is refunded
    attempts      integer     not null default 0,             -- calls in a row that settled nothing
    due_at        timestamptz,                                -- when a call is to be made, or its lease ends; null: never
    called_at     timestamptz,                                -- when the provider was last asked to charge
    caused_by     uuid        not null,                       -- the message that asked for the charge or the refund
    trace         jsonb       not null,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    check (state not in ('captured', 'refund_requested', 'refunded') or charge_id is not null)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
create index charges_due_at on charges (due_at) where due_at is not null;
