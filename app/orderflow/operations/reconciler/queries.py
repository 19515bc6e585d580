# SPDX-License-Identifier: Apache-2.0
"""Compares everything in the four databases, by read-only queries; memory does not grow with the number of orders."""

from collections.abc import Iterator, Mapping
from typing import Any

from orderflow.instrumentation import Stuck
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.comparison import compare
from orderflow.operations.reconciler.findings import Findings
from orderflow.operations.reconciler.integrity import Integrity, Stock
from orderflow.operations.reconciler.reading import FIRST, LAST, between, page_end, read
from orderflow.operations.reconciler.retired import deleted_below

STUCK_SECONDS = 30
"""An order is stuck when it is open that long after its hold ended."""

GRACE_SECONDS = 600
"""How long after the end of an order its refund, sale, release and notification may happen, even in a backlog."""

_PAGE = 10_000

# Here and below the sums of deleted rows are read from the same snapshot as the rows.
_ORDERS = """
with counted as (
    select status, count(*) as orders, sum(total_amount) as amount from orders group by status
    union all select status, orders, amount from retired_orders
)
select status, sum(orders)::bigint, sum(amount)::bigint from counted group by status
"""
_STUCK = """
select status, count(*), extract(epoch from now() - min(accepted_at))::float8 from orders
where final_at is null and hold_until < now() - make_interval(secs => %(seconds)s) group by status
"""
_ENDED_TWICE = """
select order_id from order_history where status in ('confirmed', 'rejected', 'cancelled')
group by order_id having count(*) > 1
union select order_id from orders where final_at is not null
and not exists (select from order_history as ends where ends.order_id = orders.order_id and ends.status = orders.status)
"""
_CONFIRMED_UNITS = """
with confirmed as (
    select line ->> 'sku' as sku, (line ->> 'quantity')::bigint as units
    from orders, jsonb_array_elements(items) as line where status = 'confirmed'
    union all select sku, units from retired_units
)
select sku, sum(units)::bigint from confirmed group by sku
"""
# One statement, so that all tables are read from the same snapshot.
_STOCK = """
with moves as (
    select sku, d_available as available, d_reserved as reserved, d_sold as sold,
           case kind when 'put' then d_available else 0 end as put from stock_ledger
    union all select sku, available, reserved, sold, put from retired_stock
), moved as (
    select sku, sum(available)::bigint as available, sum(reserved)::bigint as reserved, sum(sold)::bigint as sold,
           sum(put)::bigint as put
    from moves group by sku
), holds as (
    select key as sku, case state when 'reserved' then value::bigint else 0 end as reserved,
           case state when 'sold' then value::bigint else 0 end as sold
    from reservations, jsonb_each_text(items) where state in ('reserved', 'sold')
    union all select sku, 0, held_sold from retired_stock
), held as (
    select sku, sum(reserved)::bigint as reserved, sum(sold)::bigint as sold from holds group by sku
)
select sku, coalesce(put, 0)::bigint, coalesce(on_hand, 0)::bigint,
       coalesce(stock.available, 0)::bigint, coalesce(stock.reserved, 0)::bigint, coalesce(stock.sold, 0)::bigint,
       coalesce(moved.available, 0), coalesce(moved.reserved, 0), coalesce(moved.sold, 0),
       coalesce(held.reserved, 0), coalesce(held.sold, 0)
from stock full join moved using (sku) full join held using (sku)
"""
_CAPTURED = """
with captured as (
    select count(*) as charges, sum(amount) as amount from charges where state = 'captured'
    union all select charges, amount from retired_charges where state = 'captured'
)
select sum(charges)::bigint, coalesce(sum(amount), 0)::bigint from captured
"""
_CHARGED_TWICE = """
select order_id::text from charges group by order_id having count(*) > 1
union select charge_id from charges where charge_id is not null group by charge_id having count(*) > 1
"""
_STOCK_FOR_SALE = "select sku, stock_version, on_hand, available, unit_price, currency from stock"
_STOCK_SHOWN = "select sku, stock_version, on_hand, available, unit_price, currency from availability"
# An order has one end, so it gets one of the three notifications.
_NOTIFIED_TWICE = """
select subject from notifications where kind in ('order_confirmed', 'order_rejected', 'order_cancelled')
group by subject having count(*) > 1
union select subject from notifications group by subject, kind having count(*) > 1
"""


def integrity(databases: Mapping[str, Database], *, grace_seconds: float = GRACE_SECONDS) -> Integrity:
    """One pass over the databases of ``orders``, ``inventory``, ``payments`` and ``notifications``.

    What follows the end of an order (its refund, sale, release or notification) must have happened within
    ``grace_seconds``. Raises DatabaseUnavailable or TransactionAborted. On a busy system a finding may be an order in
    flight: see ``confirmed_by``.
    """
    orders = read(databases["orders"], _ORDERS)
    sold = dict(read(databases["orders"], _CONFIRMED_UNITS))
    stock_rows = read(databases["inventory"], _STOCK)
    ((captured, captured_amount),) = read(databases["payments"], _CAPTURED)
    by_order = Findings()
    for page in _pages(databases, grace_seconds):
        by_order = by_order.merged(page)
    return Integrity(
        orders={status: count for status, count, _ in orders},
        confirmed_amount=sum(amount for status, _, amount in orders if status == "confirmed"),
        stock=_totals(stock_rows),
        captured=captured,
        captured_amount=captured_amount,
        oversold=_oversold(stock_rows, sold),
        drift=_drift(stock_rows),
        ended_twice=_names(databases["orders"], _ENDED_TWICE),
        duplicate_charges=_names(databases["payments"], _CHARGED_TWICE),
        duplicate_notifications=_names(databases["notifications"], _NOTIFIED_TWICE),
        charge_mismatches=by_order.charge_mismatches,
        stock_mismatches=by_order.stock_mismatches,
        stale_availability=stale(databases),
        missing_notifications=by_order.missing_notifications,
        stuck=stuck(databases),
    )


def stuck(databases: Mapping[str, Database]) -> dict[str, Stuck]:
    """Open orders whose hold ended a while ago, by status."""
    rows = read(databases["orders"], _STUCK, seconds=STUCK_SECONDS)
    return {status: Stuck(orders=count, oldest_seconds=age) for status, count, age in rows}


def stale(databases: Mapping[str, Database]) -> frozenset[str]:
    """SKUs whose stock in the orders API is outdated. The name has the version, so a mere delay is not found twice.

    A sale raises the version too, but changes nothing that the orders API shows.
    """
    shown = {sku: (version, values) for sku, version, *values in read(databases["orders"], _STOCK_SHOWN)}
    found = set[str]()
    for sku, version, *values in read(databases["inventory"], _STOCK_FOR_SALE):
        shown_version, shown_values = shown.get(sku, (0, []))
        if shown_version < version and shown_values != values:
            found.add(f"{sku} (version {shown_version})")
    return frozenset(found)


def _pages(databases: Mapping[str, Database], grace_seconds: float) -> Iterator[Findings]:
    """The findings about all orders, in pages without gaps."""
    after, below = FIRST, deleted_below(databases)
    while after != LAST:
        last = page_end(databases, after, _PAGE)
        yield compare(databases, between(after, last), grace_seconds=grace_seconds, below=below).findings
        after = last


def _names(database: Database, statement: str) -> frozenset[str]:
    return frozenset(str(name) for (name,) in read(database, statement))


def _totals(stock_rows: list[tuple[Any, ...]]) -> Stock:
    put, on_hand, available, reserved, sold = (sum(row[column] for row in stock_rows) for column in range(1, 6))
    return Stock(put=put, on_hand=on_hand, available=available, reserved=reserved, sold=sold)


def _oversold(stock_rows: list[tuple[Any, ...]], confirmed: Mapping[str, int]) -> dict[str, int]:
    """Units that confirmed orders, the stock or its ledger sold beyond what was ever set, by SKU."""
    put = {row[0]: row[1] for row in stock_rows}
    sold = {row[0]: max(row[5], row[8], row[10]) for row in stock_rows}
    beyond = {
        sku: max(sold.get(sku, 0), confirmed.get(sku, 0)) - put.get(sku, 0) for sku in sold.keys() | confirmed.keys()
    }
    return {sku: units for sku, units in beyond.items() if units > 0}


def _drift(stock_rows: list[tuple[Any, ...]]) -> dict[str, int]:
    """How far the stock of each SKU is from its ledger and from the reservations."""
    found = {}
    for sku, _, on_hand, available, reserved, sold, *rest in stock_rows:
        moved_available, moved_reserved, moved_sold, held_reserved, held_sold = rest
        found[sku] = (
            abs(on_hand - available - reserved - sold)
            + abs(available - moved_available)
            + abs(reserved - moved_reserved)
            + abs(sold - moved_sold)
            + abs(reserved - held_reserved)
            + abs(sold - held_sold)
        )
    return {sku: units for sku, units in found.items() if units}
