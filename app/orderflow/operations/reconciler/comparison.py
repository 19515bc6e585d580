# SPDX-License-Identifier: Apache-2.0
"""Compares some orders with what the four databases have about them; the cost does not depend on any other order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import msgspec

from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.findings import Findings
from orderflow.operations.reconciler.reading import FIRST, Selection

# One snapshot: an order and its history are changed in one transaction.
_ORDERS = """
select order_id, status, total_amount, items::text,
       coalesce(final_at < now() - make_interval(secs => %(grace)s), false),
       array(select ends.status from order_history as ends where ends.order_id = orders.order_id
             and ends.status in ('confirmed', 'rejected', 'cancelled'))
       = case when final_at is null then '{}' else array[status] end
from orders where {selection}
"""
_CHARGES = "select order_id, state, amount, charge_id from charges where {selection}"
_RESERVATIONS = "select order_id, state, items::text from reservations where {selection}"
# One snapshot: a reservation and its lines of the ledger are written in one transaction.
_DRIFT = """
with held as (
    select order_id, key as sku, state, value::bigint as units from reservations, jsonb_each_text(items)
    where {selection} and state in ('reserved', 'sold')
), moved as (
    select order_id, sku, sum(d_available) as available, sum(d_reserved) as reserved, sum(d_sold) as sold
    from stock_ledger where {selection} group by order_id, sku
), compared as (
    select order_id, abs(coalesce(available, 0) + coalesce(units, 0))
                     + abs(coalesce(reserved, 0) - case when state = 'reserved' then units else 0 end)
                     + abs(coalesce(sold, 0) - case when state = 'sold' then units else 0 end) as units
    from held full join moved using (order_id, sku)
)
select order_id, sum(units)::bigint from compared group by order_id having sum(units) > 0
"""
# An order has one end, so it gets one of the three notifications.
_NOTIFICATIONS = """
select subject, state from notifications where subject = any(%(subjects)s::text[])
and kind in ('order_confirmed', 'order_rejected', 'order_cancelled')
"""
_Key = TypeVar("_Key", str, UUID)
_CHARGED = ("captured", "refund_requested", "refund_failed")


class _Line(msgspec.Struct):
    sku: str
    quantity: int


_LINES = msgspec.json.Decoder(list[_Line])
_UNITS = msgspec.json.Decoder(dict[str, int])


@dataclass(frozen=True, slots=True)
class _Order:
    status: str
    amount: int
    items: str
    settled: bool
    """Whether everything that follows its end must have happened."""
    ends_once: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """The findings about some orders, by order, and the ids of their charges."""

    findings: Findings
    charge_ids: list[tuple[str, UUID]]


def compare(
    databases: Mapping[str, Database], selection: Selection, *, grace_seconds: float, below: UUID = FIRST
) -> Compared:
    """Compare these orders, read before what the other databases have about them.

    What follows the end of an order must have happened within ``grace_seconds``. What has ended of an order with an id
    under ``below`` may be deleted: that it is missing is no finding. Raises DatabaseUnavailable or TransactionAborted.
    """
    rows = selection.rows(databases["orders"], _ORDERS, grace=grace_seconds)
    orders = {row[0]: _Order(*row[1:]) for row in rows}
    charges = selection.rows(databases["payments"], _CHARGES)
    reservations = {row[0]: (row[1], row[2]) for row in selection.rows(databases["inventory"], _RESERVATIONS)}
    drift = {str(row[0]): row[1] for row in selection.rows(databases["inventory"], _DRIFT)}
    settled = {str(order_id): order.settled and order_id >= below for order_id, order in orders.items()}
    subjects = list(settled)
    notifications = selection.rows(databases["notifications"], _NOTIFICATIONS, subjects=subjects) if subjects else []
    charge_ids = [(charge_id, order_id) for order_id, _, _, charge_id in charges if charge_id is not None]
    charged = {order_id: (state, amount) for order_id, state, amount, _ in charges if state in _CHARGED}
    notified = {subject for subject, state in notifications if state != "failed"}
    findings = Findings(
        drift=drift,
        ended_twice=frozenset(str(order_id) for order_id, order in orders.items() if not order.ends_once),
        duplicate_charges=frozenset(_charged_twice([row[0] for row in charges], charge_ids)),
        duplicate_notifications=frozenset(_repeated(subject for subject, _ in notifications)),
        charge_mismatches=frozenset(_charge_mismatches(orders, charged, below)),
        stock_mismatches=frozenset(_stock_mismatches(orders, reservations, below)),
        missing_notifications=frozenset(name for name in settled if settled[name]) - notified,
    )
    return Compared(findings, charge_ids)


def _repeated(values: Iterable[_Key]) -> set[_Key]:
    return {value for value, times in Counter(values).items() if times > 1}


def _charged_twice(charged: Iterable[UUID], charge_ids: list[tuple[str, UUID]]) -> Iterator[str]:
    """Orders with two charges, and orders that share one."""
    yield from map(str, _repeated(charged))
    shared = _repeated(charge_id for charge_id, _ in charge_ids)
    yield from (str(order_id) for charge_id, order_id in charge_ids if charge_id in shared)


def _charge_mismatches(
    orders: Mapping[UUID, _Order], charged: Mapping[UUID, tuple[str, int]], below: UUID
) -> Iterator[str]:
    """Confirmed orders without their charge, others that still have one, and charges of unknown orders.

    A confirmed order was charged before it was confirmed; the charge of a cancelled one is refunded after its end.
    """
    for order_id, order in orders.items():
        if order.status == "confirmed":
            deleted = order_id < below and order_id not in charged
            if not deleted and charged.get(order_id) != ("captured", order.amount):
                yield str(order_id)
        elif order.settled and order_id in charged:
            yield str(order_id)
    for order_id in charged.keys() - orders.keys():
        if order_id >= below or charged[order_id][0] != "captured":
            yield str(order_id)


def _stock_mismatches(
    orders: Mapping[UUID, _Order], reservations: Mapping[UUID, tuple[str, str]], below: UUID
) -> Iterator[str]:
    """Confirmed orders whose units are not sold, others with stock sold or reserved, reservations of unknown orders."""
    for order_id, order in orders.items():
        state, units = reservations.get(order_id, ("", "{}"))
        if not state and order_id < below:
            continue
        if order.status == "confirmed":
            fits = state == "sold" or (state == "reserved" and not order.settled)
            fits = fits and _ordered(order.items) == _UNITS.decode(units)
        else:
            fits = state != "sold" and not (order.settled and state == "reserved")
        if not fits:
            yield str(order_id)
    for order_id in reservations.keys() - orders.keys():
        state, _ = reservations[order_id]
        if state == "reserved" or (state == "sold" and order_id >= below):
            yield str(order_id)


def _ordered(items: str) -> dict[str, int]:
    """The units of each SKU."""
    total = dict[str, int]()
    for line in _LINES.decode(items):
        total[line.sku] = total.get(line.sku, 0) + line.quantity
    return total
