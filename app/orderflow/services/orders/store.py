# SPDX-License-Identifier: Apache-2.0
"""The SQL of orders: a constant number of statements per batch, rows locked in the order of their keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from orderflow.events import OrderLine, StockChanged
from orderflow.messaging.service import Transaction
from orderflow.services.orders.domain import Status

_ORDER = "order_id, user_id, items::text, total_amount, currency, status, reason, accepted_at, final_at, trace::text"
_LOCK = f"select {_ORDER} from orders where order_id = any(%(ids)s::uuid[]) order by order_id for update"
# An order without a client is older than this column, and visible to every client.
_VISIBLE = "order_id = %(id)s and (%(client)s::text is null or client is null or client = %(client)s)"
_READ = f"select {_ORDER} from orders where {_VISIBLE}"
_EXPIRED = f"""
select {_ORDER} from orders where final_at is null and hold_until < %(now)s
order by hold_until limit %(limit)s for update skip locked
"""
_UPDATE = """
update orders set status = changed.status, reason = changed.reason, final_at = changed.final_at,
                  reserved_at = coalesce(changed.reserved_at, orders.reserved_at),
                  hold_until = coalesce(changed.hold_until, orders.hold_until)
from unnest(%(ids)s::uuid[], %(statuses)s::text[], %(reasons)s::text[], %(finals)s::timestamptz[],
            %(reserved)s::timestamptz[], %(holds)s::timestamptz[])
     as changed (order_id, status, reason, final_at, reserved_at, hold_until)
where orders.order_id = changed.order_id
"""
_HISTORY = """
insert into order_history (order_id, status, reason, message_id, at)
select order_id, status, reason, message_id, %(now)s
from unnest(%(ids)s::uuid[], %(statuses)s::text[], %(reasons)s::text[], %(messages)s::uuid[])
     as noted (order_id, status, reason, message_id)
on conflict do nothing
"""
_READ_HISTORY = f"""
select status, reason, at from order_history
where order_id = %(id)s and exists (select from orders where {_VISIBLE}) order by id
"""
_INSERT = """
insert into orders (order_id, user_id, items, total_amount, currency, status, accepted_at, hold_until, trace,
                    client)
select order_id, user_id, items, total_amount, currency, 'accepted', %(now)s, %(hold_until)s, trace, client
from unnest(%(ids)s::uuid[], %(users)s::text[], %(items)s::jsonb[], %(amounts)s::bigint[], %(currencies)s::text[],
            %(traces)s::jsonb[], %(clients)s::text[])
     as added (order_id, user_id, items, total_amount, currency, trace, client)
"""
_AVAILABILITY = "select sku, available, unit_price, currency from availability where sku = any(%(skus)s::text[])"
_UPDATE_AVAILABILITY = """
insert into availability (sku, on_hand, available, unit_price, currency, stock_version)
select * from unnest(%(skus)s::text[], %(on_hand)s::int[], %(available)s::int[], %(prices)s::bigint[],
                     %(currencies)s::text[], %(versions)s::bigint[])
on conflict (sku) do update
set on_hand = excluded.on_hand, available = excluded.available, unit_price = excluded.unit_price,
    currency = excluded.currency, stock_version = excluded.stock_version
where availability.stock_version < excluded.stock_version
"""
_FIND_RESPONSES = """
select client, key, body_hash, order_id, response from idempotency
where (client, key) in (select * from unnest(%(clients)s::text[], %(keys)s::text[]))
"""
_CLAIM_KEYS = """
insert into idempotency (client, key, body_hash, order_id, response, created_at)
select client, key, body_hash, order_id, response, %(now)s
from unnest(%(clients)s::text[], %(keys)s::text[], %(hashes)s::bytea[], %(ids)s::uuid[], %(responses)s::bytea[])
     as claimed (client, key, body_hash, order_id, response)
on conflict do nothing returning client, key
"""


@dataclass(frozen=True, slots=True)
class Order:
    """An order as it is stored. ``trace`` are the trace headers of the request that placed it."""

    order_id: UUID
    user_id: str
    items: tuple[OrderLine, ...]
    total_amount: int
    currency: str
    status: Status
    reason: str | None
    accepted_at: datetime
    final_at: datetime | None
    trace: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A new status of an order, and the id of the message that caused it."""

    order_id: UUID
    status: Status
    reason: str | None
    message_id: UUID | None
    reserved_at: datetime | None = None
    """When the stock was reserved; None when this step did not reserve it."""
    hold_until: datetime | None = None
    """When the hold ends; None when this step does not change it."""


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order to be stored. ``client`` is the name of the API key that places it."""

    order_id: UUID
    user_id: str
    items: tuple[OrderLine, ...]
    total_amount: int
    currency: str
    trace: Mapping[str, str]
    client: str


@dataclass(frozen=True, slots=True)
class Offer:
    """The price and availability of a SKU in the orders API's view, which may lag behind inventory."""

    sku: str
    available: int
    unit_price: int
    currency: str


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """An accepted request: ``response`` is the body of its response."""

    client: str
    key: str
    body_hash: bytes
    order_id: UUID
    response: bytes


def lock(transaction: Transaction, order_ids: Iterable[UUID]) -> dict[UUID, Order]:
    """The orders with these ids, locked until the transaction ends."""
    rows = transaction.execute(_LOCK, {"ids": sorted(set(order_ids))})
    return {row[0]: _order(row) for row in rows}


def expired(transaction: Transaction, *, limit: int) -> list[Order]:
    """Open orders whose deadline or hold has passed, oldest first, locked; those locked by others are skipped."""
    return [_order(row) for row in transaction.execute(_EXPIRED, {"now": transaction.now, "limit": limit})]


def change(transaction: Transaction, changes: Sequence[StatusChange]) -> None:
    """Write new statuses and their history. Several changes of one order are applied in sequence."""
    if not changes:
        return
    now = transaction.now
    last = {item.order_id: item for item in changes}
    reserved = {item.order_id: item for item in changes if item.reserved_at is not None}
    reservations = [reserved.get(order_id) for order_id in last]
    transaction.execute(
        _UPDATE,
        _columns(list(last.values()))
        | {
            "finals": [now if item.status.final else None for item in last.values()],
            "reserved": [item and item.reserved_at for item in reservations],
            "holds": [item and item.hold_until for item in reservations],
        },
    )
    transaction.execute(_HISTORY, _columns(changes) | {"now": now})


def insert(transaction: Transaction, orders: Sequence[NewOrder], *, deadline: datetime) -> None:
    """Store new orders as accepted, with their history. An order expires when nothing is reserved by the deadline."""
    if not orders:
        return
    encode = msgspec.json.Encoder().encode
    transaction.execute(
        _INSERT,
        {
            "ids": [order.order_id for order in orders],
            "users": [order.user_id for order in orders],
            "items": [encode(order.items).decode() for order in orders],
            "amounts": [order.total_amount for order in orders],
            "currencies": [order.currency for order in orders],
            "traces": [encode(order.trace).decode() for order in orders],
            "clients": [order.client for order in orders],
            "now": transaction.now,
            "hold_until": deadline,
        },
    )
    accepted = [StatusChange(order.order_id, Status.ACCEPTED, None, None) for order in orders]
    transaction.execute(_HISTORY, _columns(accepted) | {"now": transaction.now})


def read(transaction: Transaction, order_id: UUID, *, client: str | None = None) -> Order | None:
    """One order; None when there is none, or when it belongs to another client than this one."""
    rows = transaction.execute(_READ, {"id": order_id, "client": client})
    return _order(rows[0]) if rows else None


def history(
    transaction: Transaction, order_id: UUID, *, client: str | None = None
) -> list[tuple[str, str | None, datetime]]:
    """(status, reason, time) of each status that an order reached, oldest first; empty as ``read`` returns None."""
    rows = transaction.execute(_READ_HISTORY, {"id": order_id, "client": client})
    return [(status, reason, at) for status, reason, at in rows]


def offers(transaction: Transaction, skus: Iterable[str]) -> dict[str, Offer]:
    """The offers for these SKUs; unknown SKUs are left out."""
    return {row[0]: Offer(*row) for row in transaction.execute(_AVAILABILITY, {"skus": sorted(set(skus))})}


def update_availability(transaction: Transaction, events: Sequence[StockChanged]) -> None:
    """Update the view of prices and availability; an event with an older version changes nothing."""
    newest: dict[str, StockChanged] = {}
    for event in events:
        if event.sku not in newest or newest[event.sku].stock_version < event.stock_version:
            newest[event.sku] = event
    rows = [newest[sku] for sku in sorted(newest)]
    transaction.execute(
        _UPDATE_AVAILABILITY,
        {
            "skus": [row.sku for row in rows],
            "on_hand": [row.on_hand for row in rows],
            "available": [row.available for row in rows],
            "prices": [row.unit_price for row in rows],
            "currencies": [row.currency for row in rows],
            "versions": [row.stock_version for row in rows],
        },
    )


def find_responses(
    transaction: Transaction, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], IdempotencyRecord]:
    """The records of these (client, key) pairs; pairs without one are left out."""
    parameters = {"clients": [client for client, _ in keys], "keys": [key for _, key in keys]}
    return {(row[0], row[1]): IdempotencyRecord(*row) for row in transaction.execute(_FIND_RESPONSES, parameters)}


def claim_keys(transaction: Transaction, records: Sequence[IdempotencyRecord]) -> set[tuple[str, str]]:
    """Insert records; the (client, key) pairs that were new. Waits for a concurrent transaction with the same key."""
    rows = transaction.execute(
        _CLAIM_KEYS,
        {
            "clients": [record.client for record in records],
            "keys": [record.key for record in records],
            "hashes": [record.body_hash for record in records],
            "ids": [record.order_id for record in records],
            "responses": [record.response for record in records],
            "now": transaction.now,
        },
    )
    return {(client, key) for client, key in rows}


def _columns(changes: Sequence[StatusChange]) -> dict[str, object]:
    return {
        "ids": [item.order_id for item in changes],
        "statuses": [str(item.status) for item in changes],
        "reasons": [item.reason for item in changes],
        "messages": [item.message_id for item in changes],
    }


def _order(row: tuple[Any, ...]) -> Order:
    order_id, user_id, items, total_amount, currency, status, reason, accepted_at, final_at, trace = row
    return Order(
        order_id,
        user_id,
        msgspec.json.decode(items, type=tuple[OrderLine, ...]),
        total_amount,
        currency,
        Status(status),
        reason,
        accepted_at,
        final_at,
        msgspec.json.decode(trace, type=dict[str, str]),
    )
