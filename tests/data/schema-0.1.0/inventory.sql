-- Stock by SKU, what is reserved for which order, and a ledger of every movement.

create table stock (
    sku           text    primary key,
    on_hand       integer not null,          -- everything that was ever put on the shelf: available + reserved + sold
    available     integer not null check (available >= 0),
    reserved      integer not null check (reserved >= 0),
    sold          integer not null check (sold >= 0),
    unit_price    bigint  not null check (unit_price >= 0),   -- minor units
    currency      text    not null,
    stock_version bigint  not null,          -- one more for each change
    check (on_hand = available + reserved + sold)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

create table reservations (
    order_id   uuid        primary key,
    state      text        not null check (state in ('reserved', 'rejected', 'sold', 'released')),
    items      jsonb       not null,         -- {sku: units}; empty in a tombstone: released before it was reserved
    updated_at timestamptz not null
) with (fillfactor = 70);

create table stock_ledger (
    sku         text        not null,
    order_id    uuid,                        -- null when somebody set the stock
    kind        text        not null check (kind in ('put', 'reserve', 'release', 'sell')),
    d_available integer     not null,
    d_reserved  integer     not null,
    d_sold      integer     not null,
    at          timestamptz not null,
    unique (order_id, sku, kind)
);
create index stock_ledger_sku on stock_ledger (sku);
