# SPDX-License-Identifier: Apache-2.0
"""Handles the messages of orders: the state machine, and the view of prices and availability."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from orderflow.events import (
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderRejected,
    StockChanged,
)
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import DONE, Done, Incoming, Outcome, Reject, UnitOfWork
from orderflow.services.orders import store
from orderflow.services.orders.domain import Status, Step, transition
from orderflow.services.orders.store import Order, StatusChange

MIN_HOLD = timedelta(seconds=5)
"""After a stop of the orders process the capture of a payment is further back in the queue than the reservation."""

UNKNOWN_ORDER = Reject("unknown_order")
"""The order is stored before its first event is published, so an unknown one belongs to another system."""


@dataclass(slots=True)
class _Batch:
    """The locked orders of a batch, their status after the messages so far, and the changes to write."""

    orders: dict[UUID, Order]
    status: dict[UUID, Status]
    changes: list[StatusChange] = field(default_factory=list)


class OrderUpdates:
    """Handles queue ``order_updates``: three statements per batch; the final state of each order is published once."""

    def __init__(self, instrumentation: Instrumentation) -> None:
        self._instrumentation = instrumentation

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Apply the events in the order of the messages, even when several concern one order."""
        events = [message.event for message in messages]
        orders = store.lock(unit_of_work, [event.order_id for event in events if isinstance(event, OrderEvent)])
        batch = _Batch(orders, {order_id: order.status for order_id, order in orders.items()})
        outcomes = [self._apply(message, batch, unit_of_work) for message in messages]
        store.change(unit_of_work, batch.changes)
        return outcomes

    def _apply(self, message: Incoming, batch: _Batch, unit_of_work: UnitOfWork) -> Outcome:
        event = message.event
        if not isinstance(event, OrderEvent):
            raise TypeError(f"{type(event).__name__} is not handled by orders")
        order = batch.orders.get(event.order_id)
        if order is None:
            return UNKNOWN_ORDER
        step = transition(batch.status[order.order_id], event)
        if step is None:
            return DONE
        batch.status[order.order_id] = step.status
        batch.changes.append(_change(message, event, step, unit_of_work.now))
        if not step.status.final:
            return DONE
        report_final(self._instrumentation, order, step.status, unit_of_work)
        return Done((final_event(order, step.status, step.reason, unit_of_work.now),))


class AvailabilityUpdates:
    """Handles queue ``availability_updates``: one statement per batch; the highest version of each SKU is stored."""

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Every message is done."""
        events = [message.event for message in messages]
        store.update_availability(unit_of_work, [event for event in events if isinstance(event, StockChanged)])
        return [DONE] * len(messages)


def _change(message: Incoming, event: OrderEvent, step: Step, now: datetime) -> StatusChange:
    """The change of status. A hold begins with the reservation, and lasts a while longer when that is known late."""
    if not isinstance(event, InventoryReserved):
        return StatusChange(event.order_id, step.status, step.reason, message.message_id)
    return StatusChange(
        event.order_id,
        step.status,
        step.reason,
        message.message_id,
        reserved_at=event.timestamp,
        hold_until=None if event.deadline is None else max(event.deadline, now + MIN_HOLD),
    )


def final_event(
    order: Order, status: Status, reason: str | None, now: datetime
) -> OrderConfirmed | OrderRejected | OrderCancelled:
    """The event of a final state; raises ValueError for a status that is not final."""
    match status:
        case Status.CONFIRMED:
            return OrderConfirmed(
                timestamp=now,
                order_id=order.order_id,
                user_id=order.user_id,
                total_amount=order.total_amount,
                currency=order.currency,
                items=order.items,
            )
        case Status.REJECTED:
            return OrderRejected(
                timestamp=now,
                order_id=order.order_id,
                user_id=order.user_id,
                total_amount=order.total_amount,
                currency=order.currency,
                items=order.items,
                reason=reason or "rejected",
            )
        case Status.CANCELLED:
            return OrderCancelled(
                timestamp=now,
                order_id=order.order_id,
                user_id=order.user_id,
                total_amount=order.total_amount,
                currency=order.currency,
                items=order.items,
                reason=reason or "cancelled",
            )
        case _:
            raise ValueError(f"{status} is not final")


def report_final(instrumentation: Instrumentation, order: Order, status: Status, unit_of_work: UnitOfWork) -> None:
    """Report the final state of an order after the commit."""
    seconds = (unit_of_work.now - order.accepted_at).total_seconds()
    unit_of_work.after_commit(lambda: instrumentation.order_final(str(status), seconds, order.trace))
