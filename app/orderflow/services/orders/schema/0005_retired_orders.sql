-- What the deleted old orders were, so that sums over all orders stay exact.

create table retired_orders (
    status   text        not null,
    currency text        not null,
    orders   bigint      not null,
    amount   numeric     not null,   -- minor units
    before   timestamptz not null,   -- all of them were placed, and ended, before this time
    primary key (status, currency)
);

create table retired_units (
    sku   text   primary key,
    units bigint not null            -- of confirmed orders
);

alter table order_history set (autovacuum_vacuum_scale_factor = 0.02);   -- its rows are deleted from now on
