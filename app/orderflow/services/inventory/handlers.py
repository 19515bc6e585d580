# SPDX-License-Identifier: Apache-2.0
"""What inventory does with messages: reserve, sell and release, and tell everybody the new stock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from orderflow.events import (
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
from orderflow.services.inventory.domain import OUT_OF_STOCK, Reservation, State, StockAllocator, wanted
from orderflow.services.inventory.store import Stock

NOTHING_RESERVED = Reject("nothing_reserved")
"""A confirmed order was charged for units that are not held: somebody has to look, so it is parked."""


class InventoryUpdates:
    """Handles queue ``inventory_updates``: six statements a batch, one stock event for each SKU that changed.

    ``low_units``: a SKU whose available units fall to this mark or under it is told as ``StockLow``, once a fall.
    """

    def __init__(self, *, low_units: int, instrumentation: Instrumentation) -> None:
        self._low = low_units
        self._instrumentation = instrumentation

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Decide in the order of the messages; the news of the stock belongs to no single order, nor to its trace."""
        shelf, before = store.load(unit_of_work, *_about(messages))
        outcomes = [self._decide(message.event, shelf, unit_of_work.now) for message in messages]
        after = store.save(unit_of_work, shelf)
        for item in after:
            unit_of_work.publish(self._told(item, before[item.sku], unit_of_work.now))
        moved = Counter[str]()
        for movement in shelf.movements:
            moved[movement.kind] += max(movement.available, movement.reserved, movement.sold)
        unit_of_work.after_commit(lambda: self._count(moved))
        return outcomes

    def _decide(self, event: Event, shelf: StockAllocator, now: datetime) -> Done | Reject:
        match event:
            case OrderCreated():
                reservation = shelf.reserve(event.order_id, event.items)
                return Done((_answer(event, reservation, shelf, now),)) if reservation else DONE
            case OrderConfirmed():
                return DONE if shelf.sell(event.order_id) else NOTHING_RESERVED
            case OrderRejected() | OrderCancelled():
                shelf.release(event.order_id)
            case _:
                raise TypeError(f"{type(event).__name__} is not handled by inventory")
        return DONE

    def _told(self, item: Stock, before: Stock, now: datetime) -> StockChanged:
        low = item.available <= self._low < before.available
        return stock_event(item, now, low=low)

    def _count(self, moved: Mapping[str, int]) -> None:
        for move, units in moved.items():
            self._instrumentation.stock_moved(move, units)


def stock_event(item: Stock, now: datetime, *, low: bool = False) -> StockChanged:
    """The news that the stock of a SKU changed, as a warning when it is low."""
    return (StockLow if low else StockChanged)(
        timestamp=now,
        sku=item.sku,
        on_hand=item.on_hand,
        available=item.available,
        unit_price=item.unit_price,
        currency=item.currency,
        stock_version=item.stock_version,
    )


def _about(messages: Sequence[Incoming]) -> tuple[set[UUID], set[str]]:
    """The orders and the SKUs that messages are about."""
    events = [message.event for message in messages]
    order_ids = {event.order_id for event in events if isinstance(event, OrderEvent)}
    return order_ids, {line.sku for event in events if isinstance(event, OrderCreated) for line in event.items}


def _answer(event: OrderCreated, reservation: Reservation, shelf: StockAllocator, now: datetime) -> Event:
    about: dict[str, Any] = {
        "timestamp": now,
        "order_id": event.order_id,
        "user_id": event.user_id,
        "total_amount": event.total_amount,
        "currency": event.currency,
        "items": event.items,
    }
    if reservation.state is State.RESERVED:
        return InventoryReserved(**about, payment_token=event.payment_token)
    return InventoryRejected(**about, reason=shelf.shortage(wanted(event.items)) or OUT_OF_STOCK)
