-- How many old notifications were deleted.

create table retired_notifications (
    kind          text        not null,
    state         text        not null,
    notifications bigint      not null,
    before        timestamptz not null,   -- all of them were last changed before this time
    primary key (kind, state)
);
