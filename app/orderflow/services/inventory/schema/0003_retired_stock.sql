-- What the deleted reservations and lines of the ledger were, so that sums over all of them stay exact.

create table retired_stock (
    sku       text   primary key,
    put       bigint not null,       -- of the lines of kind put; the next three are the sums of all lines
    available bigint not null,
    reserved  bigint not null,
    sold      bigint not null,
    held_sold bigint not null        -- units of sold reservations
);

create table retired_reservations (
    state        text        primary key,
    reservations bigint      not null,
    before       timestamptz not null    -- all of them were last changed before this time
);

-- Lines without an order, by age. The lines of orders, which are many more, are not in it.
create index if not exists stock_ledger_put_at on stock_ledger (at) where order_id is null;

-- Their rows are deleted from now on.
alter table reservations set (autovacuum_vacuum_scale_factor = 0.02);
alter table stock_ledger set (autovacuum_vacuum_scale_factor = 0.02);
