-- One row per order, never deleted: an order is charged at most once and refunded at most once.

create table charges (
    order_id      uuid        primary key,
    state         text        not null check (state in ('requested', 'unknown', 'captured', 'declined', 'cancelling',
                                                        'cancelled', 'refund_requested', 'refunded')),
    user_id       text        not null,
    amount        bigint      not null check (amount >= 0),   -- minor units
    currency      text        not null,
    payment_token text        not null,                       -- empty once no call needs it
    charge_id     text,                                       -- the provider's id, once known
    reason        text,                                       -- why it was declined or refunded
    attempts      integer     not null default 0,             -- consecutive calls without a result
    due_at        timestamptz,                                -- when to call next, or the lease ends; null: never
    called_at     timestamptz,                                -- when the last charge call was made
    caused_by     uuid        not null,                       -- the message that caused the charge or the refund
    trace         jsonb       not null,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    check (state not in ('captured', 'refund_requested', 'refunded') or charge_id is not null)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
create index charges_due_at on charges (due_at) where due_at is not null;
