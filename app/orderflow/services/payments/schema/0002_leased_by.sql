-- The instance that makes the call, 0 when it has no lock; null when no call is in flight, or an older version makes it.
alter table charges add column leased_by bigint;
