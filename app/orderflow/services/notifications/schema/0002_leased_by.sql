-- The instance that sends it, 0 when it has no lock; null when no send is in flight, or an older version makes it.
alter table notifications add column leased_by bigint;
