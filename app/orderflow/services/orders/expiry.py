# SPDX-License-Identifier: Apache-2.0
"""Cancels orders that were not reserved by their deadline, or not paid before their hold ended."""

from orderflow.events import DEADLINE_EXCEEDED
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import UnitOfWork
from orderflow.services.orders import store
from orderflow.services.orders.domain import HOLD_EXPIRED, Status
from orderflow.services.orders.handlers import final_event, report_final
from orderflow.services.orders.store import Order, StatusChange

LIMIT = 500


def cancel_expired(unit_of_work: UnitOfWork, *, instrumentation: Instrumentation) -> bool:
    """Cancel up to LIMIT expired orders, and publish their events; true when there may be more."""
    orders = store.expired(unit_of_work, limit=LIMIT)
    changes = [StatusChange(order.order_id, Status.CANCELLED, _reason(order), None) for order in orders]
    store.change(unit_of_work, changes)
    for order in orders:
        event = final_event(order, Status.CANCELLED, _reason(order), unit_of_work.now)
        unit_of_work.publish(event, trace=order.trace)
        report_final(instrumentation, order, Status.CANCELLED, unit_of_work)
    return len(orders) == LIMIT


def _reason(order: Order) -> str:
    return HOLD_EXPIRED if order.status is Status.RESERVED else DEADLINE_EXCEEDED
