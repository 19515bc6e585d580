-- What the deleted old charges were, so that sums over all charges stay exact.

create table retired_charges (
    state    text        not null,
    currency text        not null,
    charges  bigint      not null,
    amount   numeric     not null,   -- minor units
    before   timestamptz not null,   -- all of them were last changed before this time
    primary key (state, currency)
);
