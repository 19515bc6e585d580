-- One row per subject and kind, never deleted: two messages cannot lead to the same notification twice.

create table notifications (
    subject    text        not null,                   -- the order id, or SKU and stock version
    kind       text        not null,
    state      text        not null check (state in ('pending', 'sent', 'failed')),
    attempts   integer     not null default 0,         -- sends that were started
    due_at     timestamptz,                            -- when to send it, or when its lease ends; null: never again
    payload    jsonb       not null,                   -- what its text needs
    trace      jsonb       not null,
    reason     text,                                   -- why the last send failed, one word
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (subject, kind)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
create index notifications_due_at on notifications (due_at) where due_at is not null;
