# SPDX-License-Identifier: Apache-2.0
"""Handles the messages of payments: records which charges are required. ``effects`` makes the calls."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from orderflow.events import DEADLINE_EXCEEDED, InventoryReserved, OrderCancelled, PaymentDeclined
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import DONE, Done, Incoming, Outcome, UnitOfWork
from orderflow.services.payments import store
from orderflow.services.payments.domain import State
from orderflow.services.payments.store import ChargeIntent


class PaymentRequests:
    """Handles queue ``payment_requests``: requests the charge of a reserved order, cancels that of a cancelled order.

    An order whose deadline has passed is declined without a call. One statement per batch. ``wake`` is called after
    the commit, so that the calls begin immediately.
    """

    def __init__(self, wake: Callable[[], None], *, instrumentation: Instrumentation) -> None:
        self._wake = wake
        self._instrumentation = instrumentation

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Every message is done; its intent is recorded in the row of its order."""
        now = unit_of_work.now
        intents = _intents(messages, now)
        if intents:
            store.request(unit_of_work, intents)
            unit_of_work.after_commit(self._wake)
        outcomes = [_outcome(message, now) for message in messages]
        if expired := sum(outcome is not DONE for outcome in outcomes):
            unit_of_work.after_commit(lambda: self._instrumentation.charges_expired(expired))
        return outcomes


def _expired(event: InventoryReserved, now: datetime) -> bool:
    return event.deadline is not None and event.deadline < now


def _outcome(message: Incoming, now: datetime) -> Done:
    event = message.event
    if not isinstance(event, InventoryReserved) or not _expired(event, now):
        return DONE
    declined = PaymentDeclined(
        timestamp=now,
        order_id=event.order_id,
        user_id=event.user_id,
        total_amount=event.total_amount,
        currency=event.currency,
        reason=DEADLINE_EXCEEDED,
    )
    return Done((declined,))


def _intents(messages: Sequence[Incoming], now: datetime) -> list[ChargeIntent]:
    """One intent per order: that of the first message, but a cancellation overrides a charge."""
    intents: dict[UUID, ChargeIntent] = {}
    for message in messages:
        intent = _intent(message, now)
        known = intents.get(intent.order_id)
        if known is None or (known.state is not State.CANCELLED and intent.state is State.CANCELLED):
            intents[intent.order_id] = intent
    return list(intents.values())


def _intent(message: Incoming, now: datetime) -> ChargeIntent:
    reason: str | None
    match message.event:
        case InventoryReserved() as event if _expired(event, now):
            state, payment_token, reason = State.DECLINED, "", DEADLINE_EXCEEDED
        case InventoryReserved() as event:
            state, payment_token, reason = State.REQUESTED, event.payment_token, None
        case OrderCancelled() as event:
            state, payment_token, reason = State.CANCELLED, "", event.reason
        case event:
            raise TypeError(f"{type(event).__name__} is not handled by payments")
    return ChargeIntent(
        order_id=event.order_id,
        state=state,
        user_id=event.user_id,
        amount=event.total_amount,
        currency=event.currency,
        payment_token=payment_token,
        reason=reason,
        deadline=message.event.deadline if isinstance(message.event, InventoryReserved) else None,
        caused_by=message.message_id,
        trace=message.trace,
    )
