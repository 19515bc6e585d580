-- Leases name their owner, so that those of a process that died end at once.

create table instances (
    id         bigint      primary key,   -- the key of the advisory lock that each connection of the process holds
    service    text        not null,      -- services may share a database; each ends the leases in its own tables
    process    text        not null,
    started_at timestamptz not null
);

-- The instance that holds the lease, 0 when it has no lock; null in rows that an older version wrote. Without an index:
-- the leases that still run are few, and outbox_leased_until finds them.
alter table outbox add column leased_by bigint;
