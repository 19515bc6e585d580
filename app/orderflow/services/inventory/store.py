# SPDX-License-Identifier: Apache-2.0
"""The SQL of inventory: a constant number of statements per batch, rows locked in the order of their keys."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import msgspec

from orderflow.messaging.errors import BadData, TransactionAborted
from orderflow.messaging.service import Transaction
from orderflow.services.inventory.condition import ALWAYS, Condition
from orderflow.services.inventory.domain import Movement, Reservation, State, StockAllocator

_COLUMNS = "sku, on_hand, available, reserved, sold, unit_price, currency, stock_version"
# Sorted by code point, as Python sorts: every transaction locks in the same order, whatever the collation.
_LOCK_STOCK = f"""
select {_COLUMNS} from stock where sku = any(%(skus)s::text[]) order by sku collate "C" for update
"""
_READ_STOCK = f"select {_COLUMNS} from stock where sku = %(sku)s"
_LOCK_RESERVATIONS = """
select order_id, state, items::text from reservations where order_id = any(%(ids)s::uuid[]) order by order_id for update
"""
_MOVE = f"""
update stock
set available = available + d_available, reserved = reserved + d_reserved, sold = sold + d_sold,
    stock_version = stock_version + 1
from unnest(%(skus)s::text[], %(available)s::int[], %(reserved)s::int[], %(sold)s::int[])
     as moved (moved_sku, d_available, d_reserved, d_sold)
where sku = moved_sku
returning {_COLUMNS}
"""
_ADD_RESERVATIONS = """
insert into reservations (order_id, state, items, updated_at)
select order_id, state, items, %(now)s
from unnest(%(ids)s::uuid[], %(states)s::text[], %(items)s::jsonb[]) as added (order_id, state, items)
on conflict do nothing returning order_id
"""
_END_RESERVATIONS = """
update reservations set state = ended.state, updated_at = %(now)s
from unnest(%(ids)s::uuid[], %(states)s::text[]) as ended (order_id, state)
where reservations.order_id = ended.order_id
"""
_ADD_TO_LEDGER = """
insert into stock_ledger (sku, order_id, kind, d_available, d_reserved, d_sold, at)
select sku, order_id, kind, d_available, d_reserved, d_sold, %(now)s
from unnest(%(skus)s::text[], %(ids)s::uuid[], %(kinds)s::text[], %(available)s::int[], %(reserved)s::int[],
            %(sold)s::int[]) as noted (sku, order_id, kind, d_available, d_reserved, d_sold)
"""
_ENSURE = """
insert into stock (sku, on_hand, available, reserved, sold, unit_price, currency, stock_version)
values (%(sku)s, 0, 0, 0, 0, %(unit_price)s, %(currency)s, 0) on conflict do nothing
"""
_PUT = f"""
update stock
set on_hand = %(on_hand)s, available = %(on_hand)s - reserved - sold, unit_price = %(unit_price)s,
    currency = %(currency)s, stock_version = stock_version + 1
where sku = %(sku)s returning {_COLUMNS}
"""

PutRefusal = Literal["too_few", "condition_failed"]
"""Why stock is not set: more units are reserved or sold, or the condition of the request does not hold."""


@dataclass(frozen=True, slots=True)
class Stock:
    """The stock of one SKU: ``on_hand`` = ``available`` + ``reserved`` + ``sold``, always."""

    sku: str
    on_hand: int
    available: int
    reserved: int
    sold: int
    unit_price: int
    currency: str
    stock_version: int


def load(
    transaction: Transaction, order_ids: Iterable[UUID], skus: Iterable[str]
) -> tuple[StockAllocator, dict[str, Stock]]:
    """Lock the reservations and the stock that a batch concerns, including the SKUs of the reservations."""
    rows = transaction.execute(_LOCK_RESERVATIONS, {"ids": sorted(set(order_ids))})
    reservations = {
        order_id: Reservation(order_id, State(state), msgspec.json.decode(items, type=dict[str, int]))
        for order_id, state, items in rows
    }
    reserved = {sku for reservation in reservations.values() for sku in reservation.units}
    stock = {row[0]: Stock(*row) for row in transaction.execute(_LOCK_STOCK, {"skus": sorted(reserved | set(skus))})}
    return StockAllocator({sku: item.available for sku, item in stock.items()}, reservations), stock


def save(transaction: Transaction, allocator: StockAllocator) -> list[Stock]:
    """Write what the allocator decided; the new stock of every SKU that changed.

    The updates are relative and the table refuses negative counts, so a decision on outdated numbers fails instead of
    overselling. Raises BadData when the SKU of a reservation has no row.
    """
    changed = [allocator.reservations[order_id] for order_id in sorted(allocator.changed)]
    _save_reservations(transaction, [item for item in changed if item.new], [item for item in changed if not item.new])
    if not allocator.movements:
        return []
    transaction.execute(_ADD_TO_LEDGER, _ledger_columns(allocator.movements) | {"now": transaction.now})
    after = [Stock(*row) for row in transaction.execute(_MOVE, _sums(allocator.movements))]
    gone = {movement.sku for movement in allocator.movements} - {item.sku for item in after}
    if gone:
        raise BadData(f"the stock table has no row for {', '.join(sorted(gone))}, which a reservation has")
    return after


def put(
    transaction: Transaction, *, sku: str, on_hand: int, unit_price: int, currency: str, condition: Condition = ALWAYS
) -> tuple[Stock, Stock] | PutRefusal:
    """Set the units on hand and the price; the stock before and after, or why nothing was changed."""
    parameters = {"sku": sku, "on_hand": on_hand, "unit_price": unit_price, "currency": currency}
    if not condition.needs_the_sku:
        transaction.execute(_ENSURE, parameters)
    rows = transaction.execute(_LOCK_STOCK, {"skus": [sku]})
    version = rows[0][-1] or None if rows else None  # 0: this transaction has just created the row
    if not condition.holds(version):
        return "condition_failed"
    old = Stock(*rows[0])
    if on_hand < old.reserved + old.sold:
        return "too_few"
    (after,) = transaction.execute(_PUT, parameters)
    new = Stock(*after)
    columns: dict[str, object] = {"skus": [sku], "ids": [None], "kinds": ["put"], "reserved": [0], "sold": [0]}
    transaction.execute(
        _ADD_TO_LEDGER, {**columns, "available": [new.available - old.available], "now": transaction.now}
    )
    return old, new


def read(transaction: Transaction, sku: str) -> Stock | None:
    """The stock of one SKU, or None when it is unknown."""
    rows = transaction.execute(_READ_STOCK, {"sku": sku})
    return Stock(*rows[0]) if rows else None


def _save_reservations(transaction: Transaction, new: Collection[Reservation], ended: Collection[Reservation]) -> None:
    """Raises TransactionAborted when a concurrent transaction reserved for the same order: the batch is repeated."""
    if new:
        added = transaction.execute(_ADD_RESERVATIONS, _reservation_columns(new) | {"now": transaction.now})
        if len(added) < len(new):
            raise TransactionAborted("a concurrent transaction handled an event of the same order")
    if ended:
        transaction.execute(_END_RESERVATIONS, _reservation_columns(ended) | {"now": transaction.now})


def _reservation_columns(reservations: Collection[Reservation]) -> dict[str, object]:
    return {
        "ids": [reservation.order_id for reservation in reservations],
        "states": [str(reservation.state) for reservation in reservations],
        "items": [msgspec.json.encode(reservation.units).decode() for reservation in reservations],
    }


def _ledger_columns(movements: Sequence[Movement]) -> dict[str, object]:
    return {
        "skus": [movement.sku for movement in movements],
        "ids": [movement.order_id for movement in movements],
        "kinds": [str(movement.kind) for movement in movements],
        "available": [movement.available for movement in movements],
        "reserved": [movement.reserved for movement in movements],
        "sold": [movement.sold for movement in movements],
    }


def _sums(movements: Sequence[Movement]) -> Mapping[str, object]:
    sums: dict[str, list[int]] = {}
    for movement in movements:
        total = sums.setdefault(movement.sku, [0, 0, 0])
        total[0] += movement.available
        total[1] += movement.reserved
        total[2] += movement.sold
    skus = sorted(sums)
    return {
        "skus": skus,
        "available": [sums[sku][0] for sku in skus],
        "reserved": [sums[sku][1] for sku in skus],
        "sold": [sums[sku][2] for sku in skus],
    }
