# SPDX-License-Identifier: Apache-2.0
"""Cancels orders that were not paid in time."""

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import UnitOfWork
from orderflow.services.orders import store
from orderflow.services.orders.domain import HOLD_EXPIRED, Status
from orderflow.services.orders.handlers import ending, tell_final
from orderflow.services.orders.store import Change

LIMIT = 500


def expire_holds(transaction: UnitOfWork, *, instrumentation: Instrumentation) -> bool:
    """Cancel up to LIMIT orders whose hold is over and tell everybody; true when there may be more."""
    orders = store.expired(transaction, limit=LIMIT)
    store.change(transaction, [Change(order.order_id, Status.CANCELLED, HOLD_EXPIRED, None) for order in orders])
    for order in orders:
        event = ending(order, Status.CANCELLED, HOLD_EXPIRED, transaction.now)
        transaction.publish(event, trace=order.trace)
        tell_final(instrumentation, order, Status.CANCELLED, transaction)
    return len(orders) == LIMIT
