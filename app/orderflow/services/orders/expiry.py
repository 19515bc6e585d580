# SPDX-License-Identifier: Apache-2.0
"""Cancels orders that were not paid in time."""

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import UnitOfWork
from orderflow.services.orders import store
from orderflow.services.orders.domain import HOLD_EXPIRED, Status
from orderflow.services.orders.handlers import final_event, report_final
from orderflow.services.orders.store import StatusChange

LIMIT = 500


def expire_holds(unit_of_work: UnitOfWork, *, instrumentation: Instrumentation) -> bool:
    """Cancel up to LIMIT orders whose hold expired, and publish their events; true when there may be more."""
    orders = store.expired(unit_of_work, limit=LIMIT)
    changes = [StatusChange(order.order_id, Status.CANCELLED, HOLD_EXPIRED, None) for order in orders]
    store.change(unit_of_work, changes)
    for order in orders:
        event = final_event(order, Status.CANCELLED, HOLD_EXPIRED, unit_of_work.now)
        unit_of_work.publish(event, trace=order.trace)
        report_final(instrumentation, order, Status.CANCELLED, unit_of_work)
    return len(orders) == LIMIT
