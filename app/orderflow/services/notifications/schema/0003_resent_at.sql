-- When an operator had it sent again after it had failed: its time for retries counts from then.
alter table notifications add column resent_at timestamptz;
create index notifications_failed on notifications (updated_at) where state = 'failed';
