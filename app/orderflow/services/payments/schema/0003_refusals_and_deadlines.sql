-- A refusal of the provider is final: a refused charge is declined, and a refused refund waits for a person. A charge has
-- a deadline, so that one that waited for too long is declined without a call.

alter table charges add column refusal text;           -- the provider's word for why it refused the last call
alter table charges add column deadline timestamptz;   -- no charge call begins after it; null: no deadline

-- Not valid: the rows that exist keep the constraint that is replaced, so they need not be read.
alter table charges drop constraint charges_state_check;
alter table charges add constraint charges_state_check
    check (state in ('requested', 'unknown', 'captured', 'declined', 'cancelling', 'cancelled', 'refund_requested',
                     'refunded', 'refund_failed')) not valid;
create index charges_refund_failed on charges (updated_at) where state = 'refund_failed';
