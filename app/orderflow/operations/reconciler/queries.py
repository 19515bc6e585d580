# SPDX-License-Identifier: Apache-2.0
"""The contents of the four databases, read by read-only queries; memory does not grow with the number of orders."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from orderflow.instrumentation import Stuck
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.integrity import Integrity, Stock

STUCK_SECONDS = 30
"""An order is stuck when it is open that long after its hold ended."""

GRACE_SECONDS = 600
"""How long after the end of an order its refund, sale, release and notification may happen, even in a backlog."""

_PAGE = 10_000
_LAST = UUID(int=2**128 - 1)

_ORDERS = "select status, count(*), coalesce(sum(total_amount), 0)::bigint from orders group by status"
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
select line ->> 'sku', sum((line ->> 'quantity')::bigint)::bigint from orders, jsonb_array_elements(items) as line
where status = 'confirmed' group by 1
"""
_ORDER_PAGE = """
select order_id, status, total_amount, coalesce(final_at < now() - make_interval(secs => %(grace)s), false)
from orders where order_id > %(after)s order by order_id limit %(limit)s
"""
# One statement, so that all three tables are read from the same snapshot.
_STOCK = """
with moved as (
    select sku, sum(d_available)::bigint as available, sum(d_reserved)::bigint as reserved, sum(d_sold)::bigint as sold,
           coalesce(sum(d_available) filter (where kind = 'put'), 0)::bigint as put
    from stock_ledger group by sku
), held as (
    select key as sku, coalesce(sum(value::bigint) filter (where state = 'reserved'), 0)::bigint as reserved,
           coalesce(sum(value::bigint) filter (where state = 'sold'), 0)::bigint as sold
    from reservations, jsonb_each_text(items) where state in ('reserved', 'sold') group by key
)
select sku, coalesce(put, 0)::bigint, coalesce(on_hand, 0)::bigint,
       coalesce(stock.available, 0)::bigint, coalesce(stock.reserved, 0)::bigint, coalesce(stock.sold, 0)::bigint,
       coalesce(moved.available, 0), coalesce(moved.reserved, 0), coalesce(moved.sold, 0),
       coalesce(held.reserved, 0), coalesce(held.sold, 0)
from stock full join moved using (sku) full join held using (sku)
"""
_CAPTURED = "select count(*), coalesce(sum(amount), 0)::bigint from charges where state = 'captured'"
_CHARGED_TWICE = """
select order_id::text from charges group by order_id having count(*) > 1
union select charge_id from charges where charge_id is not null group by charge_id having count(*) > 1
"""
_CHARGES_BETWEEN = """
select order_id, state, amount from charges
where state in ('captured', 'refund_requested', 'refund_failed') and order_id > %(after)s and order_id <= %(last)s
"""
_RESERVATIONS_BETWEEN = """
select order_id, state from reservations where order_id > %(after)s and order_id <= %(last)s
"""
_NOTIFIED = """
select subject from notifications where subject = any(%(subjects)s) and state <> 'failed'
and kind in ('order_confirmed', 'order_rejected', 'order_cancelled')
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
    orders = _query(databases["orders"], _ORDERS)
    sold = dict(_query(databases["orders"], _CONFIRMED_UNITS))
    stock_rows = _query(databases["inventory"], _STOCK)
    ((captured, captured_amount),) = _query(databases["payments"], _CAPTURED)
    charges, reservations, missing_notifications = set[str](), set[str](), set[str]()
    for page in _pages(databases["orders"], grace_seconds):
        charges.update(_charge_mismatches(page, databases["payments"]))
        reservations.update(_stock_mismatches(page, databases["inventory"]))
        missing_notifications.update(_missing_notifications(page, databases["notifications"]))
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
        charge_mismatches=frozenset(charges),
        stock_mismatches=frozenset(reservations),
        stale_availability=frozenset(_stale(databases["orders"], databases["inventory"])),
        missing_notifications=frozenset(missing_notifications),
        stuck={
            status: Stuck(orders=count, oldest_seconds=age)
            for status, count, age in _query(databases["orders"], _STUCK, seconds=STUCK_SECONDS)
        },
    )


def _query(database: Database, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with database.transaction() as transaction:
        return transaction.execute(statement, parameters)


def _names(database: Database, statement: str) -> frozenset[str]:
    return frozenset(str(name) for (name,) in _query(database, statement))


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


@dataclass(frozen=True, slots=True)
class _Page:
    """Orders of one range of ids: status, amount, and whether everything that follows their end must have happened."""

    after: UUID
    last: UUID
    orders: dict[UUID, tuple[str, int, bool]]

    def rows(self, database: Database, statement: str) -> dict[UUID, tuple[Any, ...]]:
        """What another database has in this range, by order."""
        return {row[0]: row[1:] for row in _query(database, statement, after=self.after, last=self.last)}


def _pages(orders: Database, grace_seconds: float) -> Iterator[_Page]:
    """All orders in pages without gaps. Each page is read before the rows of its orders in the other databases."""
    after, last = UUID(int=0), UUID(int=0)
    while last != _LAST:
        found = _query(orders, _ORDER_PAGE, after=after, limit=_PAGE, grace=grace_seconds)
        last = found[-1][0] if len(found) == _PAGE else _LAST
        yield _Page(after, last, {row[0]: row[1:] for row in found})
        after = last


def _charge_mismatches(page: _Page, payments: Database) -> Iterator[str]:
    """Confirmed orders without their charge, others that still have one, and charges of unknown orders.

    A confirmed order was charged before it was confirmed; the charge of a cancelled one is refunded after its end.
    """
    charges = page.rows(payments, _CHARGES_BETWEEN)
    for order_id, (status, amount, settled) in page.orders.items():
        charge = charges.pop(order_id, None)
        if status == "confirmed":
            if charge != ("captured", amount):
                yield str(order_id)
        elif settled and charge is not None:
            yield str(order_id)
    yield from map(str, charges)


def _stock_mismatches(page: _Page, inventory: Database) -> Iterator[str]:
    """Confirmed orders whose stock is not sold, others with stock sold or reserved, reservations of unknown orders."""
    reservations = page.rows(inventory, _RESERVATIONS_BETWEEN)
    for order_id, (status, _, settled) in page.orders.items():
        (state,) = reservations.pop(order_id, ("",))
        if status == "confirmed":
            fits = state == "sold" or (state == "reserved" and not settled)
        else:
            fits = state != "sold" and not (settled and state == "reserved")
        if not fits:
            yield str(order_id)
    yield from (str(order_id) for order_id, (state,) in reservations.items() if state in {"reserved", "sold"})


def _missing_notifications(page: _Page, notifications: Database) -> Iterator[str]:
    """Orders that ended before the grace period and whose notification is missing or has failed for good."""
    ended = {str(order_id) for order_id, (_, _, settled) in page.orders.items() if settled}
    notified = {subject for (subject,) in _query(notifications, _NOTIFIED, subjects=list(ended))} if ended else set()
    yield from ended - notified


def _stale(orders: Database, inventory: Database) -> Iterator[str]:
    """SKUs whose stock in the orders API is outdated. The name has the version, so a mere delay is not found twice.

    A sale raises the version too, but changes nothing that the orders API shows.
    """
    shown = {sku: (version, values) for sku, version, *values in _query(orders, _STOCK_SHOWN)}
    for sku, version, *values in _query(inventory, _STOCK_FOR_SALE):
        shown_version, shown_values = shown.get(sku, (0, None))
        if shown_version < version and shown_values != values:
            yield f"{sku} (version {shown_version})"
