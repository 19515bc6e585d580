# SPDX-License-Identifier: Apache-2.0
"""What orders does with messages: move the state machine, and keep the view of prices and availability."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from orderflow.events import OrderCancelled, OrderConfirmed, OrderEvent, OrderRejected, StockChanged
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.service import DONE, Done, Incoming, Outcome, Reject, UnitOfWork
from orderflow.services.orders import store
from orderflow.services.orders.domain import Status, step
from orderflow.services.orders.store import Change, Order

UNKNOWN_ORDER = Reject("unknown_order")
"""The order is stored before its first event is published, so an unknown one is nobody's order."""


class OrderUpdates:
    """Handles queue ``order_updates``: three statements a batch; each order that ends is told to everybody once."""

    def __init__(self, instrumentation: Instrumentation) -> None:
        self._instrumentation = instrumentation

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Apply the events in the order of the messages, several of one order one after the other."""
        events = [message.event for message in messages]
        orders = store.lock(unit_of_work, [event.order_id for event in events if isinstance(event, OrderEvent)])
        status = {order_id: order.status for order_id, order in orders.items()}
        changes: list[Change] = []
        outcomes = [self._apply(message, orders, status, changes, unit_of_work) for message in messages]
        store.change(unit_of_work, changes)
        return outcomes

    def _apply(
        self,
        message: Incoming,
        orders: dict[UUID, Order],
        status: dict[UUID, Status],
        changes: list[Change],
        unit_of_work: UnitOfWork,
    ) -> Outcome:
        event = message.event
        if not isinstance(event, OrderEvent):
            raise TypeError(f"{type(event).__name__} is not handled by orders")
        order = orders.get(event.order_id)
        if order is None:
            return UNKNOWN_ORDER
        taken = step(status[order.order_id], event)
        if taken is None:
            return DONE
        status[order.order_id] = taken.status
        changes.append(Change(order.order_id, taken.status, taken.reason, message.message_id))
        if not taken.status.final:
            return DONE
        tell_final(self._instrumentation, order, taken.status, unit_of_work)
        return Done((ending(order, taken.status, taken.reason, unit_of_work.now),))


class AvailabilityUpdates:
    """Handles queue ``availability_updates``: one statement a batch, the newest news of each SKU wins."""

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Every message is done."""
        events = [message.event for message in messages]
        store.note_stock(unit_of_work, [event for event in events if isinstance(event, StockChanged)])
        return [DONE] * len(messages)


def ending(order: Order, status: Status, reason: str | None, now: datetime) -> Event:
    """The event that tells how an order ended."""
    about: dict[str, Any] = {
        "timestamp": now,
        "order_id": order.order_id,
        "user_id": order.user_id,
        "total_amount": order.total_amount,
        "currency": order.currency,
        "items": order.items,
    }
    match status:
        case Status.CONFIRMED:
            return OrderConfirmed(**about)
        case Status.REJECTED:
            return OrderRejected(**about, reason=reason or "rejected")
        case Status.CANCELLED:
            return OrderCancelled(**about, reason=reason or "cancelled")
        case _:
            raise ValueError(f"{status} is no end")


def tell_final(instrumentation: Instrumentation, order: Order, status: Status, unit_of_work: UnitOfWork) -> None:
    """Let telemetry know of the end of an order, once it is committed."""
    seconds = (unit_of_work.now - order.accepted_at).total_seconds()
    unit_of_work.after_commit(lambda: instrumentation.order_final(str(status), seconds, order.trace))
