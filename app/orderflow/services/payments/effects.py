# SPDX-License-Identifier: Apache-2.0
"""Calls the provider to charge, look up or refund, and publishes the results."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from orderflow.events import PaymentCaptured, PaymentDeclined, PaymentRefunded
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import Transaction, UnitOfWork
from orderflow.services.payments import store
from orderflow.services.payments.domain import (
    MAX_DELAY_SECONDS,
    SETTLED_AFTER_SECONDS,
    State,
    Step,
    decide,
    uncounted,
)
from orderflow.services.payments.provider import (
    ACCESS_DENIED,
    CONNECTION_LOST,
    TIMEOUT,
    UNREACHABLE,
    Captured,
    Failed,
    PaymentProvider,
    ProviderResult,
    Refused,
    Unclear,
)
from orderflow.services.payments.store import ChargeRow, ChargeUpdate, DueCall

log = logging.getLogger(__name__)

DECLINED = "payment_declined"
REFUSED = "payment_refused"
CANCELLED = "order_cancelled"
_NO_RESPONSE = frozenset({UNREACHABLE, TIMEOUT, CONNECTION_LOST, ACCESS_DENIED})


class ChargeEffect:
    """The ``messaging.effects.Effect`` that calls the provider. A result applies to the current state of its charge."""

    def __init__(self, provider: PaymentProvider, *, settled_after_seconds: float = SETTLED_AFTER_SECONDS) -> None:
        self._provider = provider
        self._settled_after_seconds = settled_after_seconds

    def resources(self) -> AbstractAsyncContextManager[object]:
        """The provider's connections."""
        return self._provider.connections()

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> list[DueCall]:
        """Calls that are due, oldest first."""
        return store.claim(transaction, limit=limit, lease=lease)

    async def perform(self, task: DueCall) -> ProviderResult:
        """Make the call that the state of the charge requires."""
        match task.state:
            case State.REQUESTED:
                return await self._provider.charge(task.payment)
            case State.REFUND_REQUESTED:
                return await self._provider.refund(task.payment)
            case _:
                return await self._provider.look_up(task.payment)

    def responded(self, result: ProviderResult) -> bool:
        """False when the provider could not be reached, did not respond, or refuses our credentials."""
        return not (isinstance(result, Failed | Unclear) and result.reason in _NO_RESPONSE)

    def record(self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[DueCall, ProviderResult]]) -> None:
        """Record the results in two statements, and publish one event for each announced change."""
        self._record(unit_of_work, pairs, counted=True)

    def record_without_response(
        self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[DueCall, ProviderResult]]
    ) -> None:
        """As ``record``: what was sent may have been executed, so it is looked up. No attempt is counted."""
        self._record(unit_of_work, pairs, counted=False)

    def resume(self, transaction: Transaction) -> None:
        """Calls that wait after an attempt are due now."""
        store.resume(transaction, within=timedelta(seconds=MAX_DELAY_SECONDS))

    def _record(
        self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[DueCall, ProviderResult]], *, counted: bool
    ) -> None:
        rows = store.lock(unit_of_work, [call.payment.order_id for call, _ in pairs])
        updates: dict[UUID, ChargeUpdate] = {}
        for call, result in pairs:
            row = rows[call.payment.order_id]
            step = decide(row.charge, result, settled_after_seconds=self._settled_after_seconds)
            if step is not None and row.order_id not in updates:
                step = step if counted else uncounted(step, row.charge)
                updates[row.order_id] = _update(row, step, result)
                if step.announced:
                    event = _event(row, updates[row.order_id], unit_of_work.now)
                    unit_of_work.publish(event, causation_id=row.caused_by, trace=row.trace)
        if updates:
            store.record(unit_of_work, list(updates.values()))
        if refused := [update for update in updates.values() if update.refusal is not None]:
            unit_of_work.after_commit(partial(_log_refused, refused))


def count_charges(transaction: Transaction, instrumentation: Instrumentation) -> None:
    """Report the numbers of charges with an unknown result and of refused refunds; for a periodic loop."""
    unknown, refunds_failed = store.count(transaction)
    instrumentation.payments_unknown(unknown)
    instrumentation.refunds_failed(refunds_failed)


def _log_refused(updates: Sequence[ChargeUpdate]) -> None:
    """One line for each refund, which an operator must settle; one for all charges, because a bug may affect all."""
    for update in updates:
        if update.step.state is State.REFUND_FAILED:
            log.error("refund.refused", extra={"order_id": str(update.order_id), "reason": update.refusal})
    if charges := Counter(update.refusal for update in updates if update.step.state is State.DECLINED):
        log.warning("charges.refused", extra={"reasons": dict(charges)})


def _update(row: ChargeRow, step: Step, result: ProviderResult) -> ChargeUpdate:
    reason = None
    if step.state is State.DECLINED:
        reason = REFUSED if isinstance(result, Refused) else DECLINED
    ends = step.state in {State.DECLINED, State.REFUND_FAILED}
    return ChargeUpdate(
        order_id=row.order_id,
        step=step,
        charge_id=result.charge_id if isinstance(result, Captured) else None,
        reason=reason,
        refusal=result.reason if isinstance(result, Refused) and ends else None,
    )


def _event(row: ChargeRow, update: ChargeUpdate, now: datetime) -> PaymentCaptured | PaymentDeclined | PaymentRefunded:
    """The event that announces a change."""
    charge_id = update.charge_id or row.charge_id or ""
    match update.step.state:
        case State.CAPTURED:
            return PaymentCaptured(
                timestamp=now,
                order_id=row.order_id,
                user_id=row.user_id,
                total_amount=row.amount,
                currency=row.currency,
                charge_id=charge_id,
            )
        case State.DECLINED:
            return PaymentDeclined(
                timestamp=now,
                order_id=row.order_id,
                user_id=row.user_id,
                total_amount=row.amount,
                currency=row.currency,
                reason=update.reason or DECLINED,
            )
        case State.REFUNDED:
            return PaymentRefunded(
                timestamp=now,
                order_id=row.order_id,
                user_id=row.user_id,
                total_amount=row.amount,
                currency=row.currency,
                charge_id=charge_id,
                reason=row.reason or CANCELLED,
            )
        case state:
            raise ValueError(f"{state} is not announced")
