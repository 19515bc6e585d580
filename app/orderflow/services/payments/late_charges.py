# SPDX-License-Identifier: Apache-2.0
"""Declines charges that waited for the provider until their deadline had passed.

``claim`` leaves them out, so none is sent to the provider and refunded afterwards. Those that were called before are
not declined, because a call may have been executed: the cancellation of the order, whose hold has ended, has them
looked up.
"""

from functools import partial

from orderflow.events import DEADLINE_EXCEEDED, PaymentDeclined
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import UnitOfWork
from orderflow.services.payments import store

LIMIT = 500
INTERVAL_SECONDS = 1.0


def decline_late(unit_of_work: UnitOfWork, *, instrumentation: Instrumentation) -> bool:
    """Decline up to LIMIT late charges and publish their events, in one statement; true when there may be more."""
    late = store.decline_late(unit_of_work, reason=DEADLINE_EXCEEDED, limit=LIMIT)
    for charge in late:
        event = PaymentDeclined(
            timestamp=unit_of_work.now,
            order_id=charge.order_id,
            user_id=charge.user_id,
            total_amount=charge.amount,
            currency=charge.currency,
            reason=DEADLINE_EXCEEDED,
        )
        unit_of_work.publish(event, causation_id=charge.caused_by, trace=charge.trace)
    if late:
        unit_of_work.after_commit(partial(instrumentation.charges_expired, len(late)))
    return len(late) == LIMIT
