# SPDX-License-Identifier: Apache-2.0
"""Asks the provider to charge, to tell, or to refund, and publishes what it answered."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from orderflow.events import PaymentCaptured, PaymentDeclined, PaymentRefunded
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.service import Transaction, UnitOfWork
from orderflow.services.payments import store
from orderflow.services.payments.domain import SETTLED_AFTER_SECONDS, State, Step, decide
from orderflow.services.payments.provider import Answer, Captured, Declined, PaymentProvider
from orderflow.services.payments.store import Call, Change, Row

DECLINED = "payment_declined"


class ChargeEffect:
    """The effects of payments (``messaging.effects``). An answer is judged against the charge as it is by then."""

    def __init__(self, gateway: PaymentProvider, *, settled_after_seconds: float = SETTLED_AFTER_SECONDS) -> None:
        self._gateway = gateway
        self._settled_after = settled_after_seconds

    def resources(self) -> AbstractAsyncContextManager[object]:
        """The gateway's connections."""
        return self._gateway.connections()

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> list[Call]:
        """Calls that are due, oldest first."""
        return store.claim(transaction, limit=limit, lease=lease)

    async def perform(self, task: Call) -> Answer:
        """The call that the charge's state asks for."""
        match task.state:
            case State.REQUESTED:
                return await self._gateway.charge(task.payment)
            case State.REFUND_REQUESTED:
                return await self._gateway.refund(task.payment)
            case _:
                return await self._gateway.look_up(task.payment)

    def record(self, transaction: UnitOfWork, pairs: Sequence[tuple[Call, Answer]]) -> None:
        """Two statements, whatever the number of answers, and one event for each charge that reached news."""
        rows = store.lock(transaction, [call.payment.order_id for call, _ in pairs])
        changes: dict[UUID, Change] = {}
        for call, answer in pairs:
            row = rows[call.payment.order_id]
            step = decide(row.charge, answer, settled_after_seconds=self._settled_after)
            if step is not None and row.order_id not in changes:
                changes[row.order_id] = _change(row, step, answer)
                if step.announced:
                    _announce(transaction, row, changes[row.order_id])
        if changes:
            store.record(transaction, list(changes.values()))


def _change(row: Row, step: Step, answer: Answer) -> Change:
    return Change(
        order_id=row.order_id,
        step=step,
        charge_id=answer.charge_id if isinstance(answer, Captured) else None,
        reason=DECLINED if isinstance(answer, Declined) and step.announced else None,
    )


def _announce(transaction: UnitOfWork, row: Row, change: Change) -> None:
    transaction.publish(
        _event(row, change, transaction.now),
        causation_id=row.caused_by,
        trace=row.trace,
    )


def _event(row: Row, change: Change, now: datetime) -> Event:
    about: dict[str, Any] = {
        "timestamp": now,
        "order_id": row.order_id,
        "user_id": row.user_id,
        "total_amount": row.amount,
        "currency": row.currency,
    }
    charge_id = change.charge_id or row.charge_id or ""
    match change.step.state:
        case State.CAPTURED:
            return PaymentCaptured(**about, charge_id=charge_id)
        case State.DECLINED:
            return PaymentDeclined(**about, reason=DECLINED)
        case State.REFUNDED:
            return PaymentRefunded(**about, charge_id=charge_id, reason=row.reason or "order_cancelled")
        case state:
            raise ValueError(f"{state} is no news")


def count_unknown(transaction: Transaction, instrumentation: Instrumentation) -> None:
    """Tell how many charges have an outcome that nobody knows yet; to be called now and then."""
    instrumentation.payments_unknown(store.unresolved(transaction))
