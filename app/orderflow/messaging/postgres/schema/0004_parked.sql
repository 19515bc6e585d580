-- An event that the broker refuses for good is parked: its lease is infinite, so that no relay, also none of an older
-- version, tries it again before an operator decides.

alter table outbox add column refused_at timestamptz,   -- when the broker refused it first
                   add column reason     text,          -- why, one word
                   add column parked_at  timestamptz;
create index outbox_parked on outbox (parked_at) where parked_at is not null;
