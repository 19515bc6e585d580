-- Old keys are deleted in the order of their age, a page at a time. The block ranges of a BRIN index would overlap more
-- and more, because new rows take the place of deleted ones.

create index if not exists idempotency_by_age on idempotency (created_at);
drop index if exists idempotency_created_at;
alter table idempotency set (autovacuum_vacuum_scale_factor = 0.02);
