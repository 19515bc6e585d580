-- How far the rows that are no longer needed have been deleted. The row is locked by the process that prunes.

create table pruning (
    name        text        primary key,               -- what is pruned, for an inbox with its queue
    position    text        not null default '',       -- the next page begins here; empty: at the very beginning
    due_at      timestamptz not null default now(),    -- when the next round begins
    swept_at    timestamptz not null default now(),    -- when the last round from the very beginning was decided
    finished_at timestamptz not null default now()     -- when the last round ended
);

-- Deleted rows stay in the index until a vacuum; it comes after two percent of the table, not after twenty.
alter table inbox set (autovacuum_vacuum_scale_factor = 0.02);
