# SPDX-License-Identifier: Apache-2.0
"""Handles the messages of inventory: reserves, sells and releases stock, and publishes every change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from orderflow.events import (
    DEADLINE_EXCEEDED,
    InventoryRejected,
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderEvent,
    OrderRejected,
    StockChanged,
    StockLow,
)
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.service import DONE, Done, Incoming, Outcome, Reject, UnitOfWork
from orderflow.services.inventory import store
from orderflow.services.inventory.domain import OUT_OF_STOCK, Reservation, State, StockAllocator, units_by_sku
from orderflow.services.inventory.store import Stock

NOTHING_RESERVED = Reject("nothing_reserved")
"""The order was charged but has no reserved units. It is dead-lettered, because only an operator can resolve this."""


class InventoryUpdates:
    """Handles queue ``inventory_updates``: six statements per batch, one stock event for each SKU whose available
    units changed. A sale changes none: reserved units become sold ones.

    See ``stock_event`` for ``low_units``.
    """

    def __init__(self, *, low_units: int, instrumentation: Instrumentation) -> None:
        self._low_units = low_units
        self._instrumentation = instrumentation

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Decide in the order of the messages. A stock event may concern several orders, so it carries no trace."""
        allocator, before = store.load(unit_of_work, *_order_ids_and_skus(messages, unit_of_work.now))
        outcomes = [self._decide(message.event, allocator, unit_of_work.now) for message in messages]
        for stock in store.save(unit_of_work, allocator):
            if stock.available != before[stock.sku].available:
                event = stock_event(before[stock.sku], stock, unit_of_work.now, low_units=self._low_units)
                unit_of_work.publish(event)
        moved = Counter[str]()
        for movement in allocator.movements:
            moved[movement.kind] += max(movement.available, movement.reserved, movement.sold)
        expired = sum(
            isinstance(message.event, OrderCreated) and _expired(message.event, unit_of_work.now)
            for message in messages
        )
        unit_of_work.after_commit(lambda: self._count(moved, expired))
        return outcomes

    def _decide(self, event: Event, allocator: StockAllocator, now: datetime) -> Done | Reject:
        match event:
            case OrderCreated() if _expired(event, now):
                rejected = allocator.reject(event.order_id)
                return Done((_rejection_event(event, DEADLINE_EXCEEDED, now),)) if rejected else DONE
            case OrderCreated():
                reservation = allocator.reserve(event.order_id, event.items)
                return Done((_reservation_event(event, reservation, allocator, now),)) if reservation else DONE
            case OrderConfirmed():
                return DONE if allocator.sell(event.order_id) else NOTHING_RESERVED
            case OrderRejected() | OrderCancelled():
                allocator.release(event.order_id)
            case _:
                raise TypeError(f"{type(event).__name__} is not handled by inventory")
        return DONE

    def _count(self, moved: Mapping[str, int], expired: int) -> None:
        for move, units in moved.items():
            self._instrumentation.stock_moved(move, units)
        if expired:
            self._instrumentation.reservations_expired(expired)


def stock_event(before: Stock, stock: Stock, now: datetime, *, low_units: int) -> StockChanged:
    """The event for a changed stock.

    It is ``StockLow`` when this change lowers the available units to ``low_units`` or below.
    """
    low = stock.available <= low_units < before.available
    return (StockLow if low else StockChanged)(
        timestamp=now,
        sku=stock.sku,
        on_hand=stock.on_hand,
        available=stock.available,
        unit_price=stock.unit_price,
        currency=stock.currency,
        stock_version=stock.stock_version,
    )


def _expired(event: OrderCreated, now: datetime) -> bool:
    return event.deadline is not None and event.deadline < now


def _order_ids_and_skus(messages: Sequence[Incoming], now: datetime) -> tuple[set[UUID], set[str]]:
    """The orders that the messages concern, and the SKUs of those that are not expired."""
    events = [message.event for message in messages]
    order_ids = {event.order_id for event in events if isinstance(event, OrderEvent)}
    created = [event for event in events if isinstance(event, OrderCreated) and not _expired(event, now)]
    return order_ids, {line.sku for event in created for line in event.items}


def _reservation_event(
    event: OrderCreated, reservation: Reservation, allocator: StockAllocator, now: datetime
) -> InventoryReserved | InventoryRejected:
    """The event about the reservation of a new order."""
    if reservation.state is State.RESERVED:
        return InventoryReserved(
            timestamp=now,
            order_id=event.order_id,
            user_id=event.user_id,
            total_amount=event.total_amount,
            currency=event.currency,
            items=event.items,
            payment_token=event.payment_token,
            deadline=None if event.hold_seconds is None else now + timedelta(seconds=event.hold_seconds),
        )
    return _rejection_event(event, allocator.shortage(units_by_sku(event.items)) or OUT_OF_STOCK, now)


def _rejection_event(event: OrderCreated, reason: str, now: datetime) -> InventoryRejected:
    return InventoryRejected(
        timestamp=now,
        order_id=event.order_id,
        user_id=event.user_id,
        total_amount=event.total_amount,
        currency=event.currency,
        items=event.items,
        reason=reason,
    )
