# SPDX-License-Identifier: Apache-2.0
"""Sends notifications, each for a bounded time.

A notification is recorded once and sent at least once: when the process ends between a send and its record, the
notification is sent again with the same idempotency key. A receiver recognises duplicates by that key.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.backoff import delay_seconds
from orderflow.messaging.service import Transaction, UnitOfWork
from orderflow.services.notifications import store
from orderflow.services.notifications.senders import INVALID_ADDRESS, NO_RESPONSE, Sender, SendFailed
from orderflow.services.notifications.store import DeliveryUpdate, DueNotification

log = logging.getLogger(__name__)

MIN_ATTEMPTS = 12
"""A notification does not fail before so many attempts, however old it is: it may have waited for a receiver that was
away. The last of them is 12 to 24 minutes after the first, plus the duration of the sends."""
RETRY_SECONDS = 86_400.0
"""Time from a notification to its last attempt."""
FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 900.0
NEVER = frozenset({INVALID_ADDRESS})
"""Reasons that no further attempt can change: the notification fails immediately."""
_OUTCOMES = {"sent": "sent", "pending": "retried", "failed": "failed"}

Result = SendFailed | None


class NotificationEffect:
    """The ``messaging.effects.Effect`` that sends notifications."""

    def __init__(
        self,
        sender: Sender,
        *,
        instrumentation: Instrumentation,
        min_attempts: int = MIN_ATTEMPTS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._sender = sender
        self._instrumentation = instrumentation
        self._after_attempt = partial(after_attempt, min_attempts=min_attempts, retry_seconds=retry_seconds)

    def resources(self) -> AbstractAsyncContextManager[object]:
        """The sender's connections."""
        return self._sender.connections()

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> list[DueNotification]:
        """Notifications that are due, oldest first."""
        return store.claim(transaction, limit=limit, lease=lease)

    async def perform(self, task: DueNotification) -> Result:
        """Send once; None when the receiver accepted it."""
        observer = self._instrumentation.calling("notify", task.notification.trace)
        outcome = "failed"
        try:
            await self._sender.send(task.notification, observer.headers())
            outcome = "sent"
        except SendFailed as failure:
            return failure
        finally:
            observer.finished(outcome)
        return None

    def responded(self, result: Result) -> bool:
        """False when the receiver could not be reached, or did not respond."""
        return result is None or result.reason not in NO_RESPONSE

    def record(self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[DueNotification, Result]]) -> None:
        """Record the attempts in one statement; count them after the commit."""
        self._write(unit_of_work, [self._after_attempt(*pair) for pair in pairs])

    def record_without_response(
        self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[DueNotification, Result]]
    ) -> None:
        """One statement: they stay pending, are due again, and have one attempt less."""
        self._write(unit_of_work, [after_silence(*pair) for pair in pairs])

    def resume(self, transaction: Transaction) -> None:
        """Notifications whose receiver could not be reached are due now."""
        within = timedelta(seconds=MAX_DELAY_SECONDS)
        store.resume(transaction, within=within, reasons=sorted(NO_RESPONSE))

    def _write(self, unit_of_work: UnitOfWork, changes: Sequence[DeliveryUpdate]) -> None:
        written = Counter(store.record(unit_of_work, changes))
        unit_of_work.after_commit(partial(self._count, written))
        for failed in (change for change in changes if change.state == "failed"):
            log.warning("notification.failed", extra={"key": failed.notification.key, "reason": failed.reason})

    def _count(self, written: Counter[tuple[str, str]]) -> None:
        for kind, state in written.elements():
            self._instrumentation.notification(kind, _OUTCOMES[state])


def after_attempt(
    task: DueNotification,
    result: Result,
    *,
    min_attempts: int = MIN_ATTEMPTS,
    retry_seconds: float = RETRY_SECONDS,
) -> DeliveryUpdate:
    """The state of a notification after an attempt: sent, pending with a delay, or failed for good."""
    if result is None:
        return DeliveryUpdate(notification=task.notification, state="sent", attempts=task.attempts)
    used_up = task.attempts >= min_attempts and task.age_seconds >= retry_seconds
    if used_up or result.reason in NEVER:
        return DeliveryUpdate(
            notification=task.notification, state="failed", attempts=task.attempts, reason=result.reason
        )
    return DeliveryUpdate(
        notification=task.notification,
        state="pending",
        attempts=task.attempts,
        due_seconds=delay_seconds(task.attempts - 1, first=FIRST_DELAY_SECONDS, maximum=MAX_DELAY_SECONDS),
        reason=result.reason,
    )


def after_silence(task: DueNotification, result: Result) -> DeliveryUpdate:
    """The state of a notification after a send without a response, while sends are suspended: it was no attempt."""
    reason = None if result is None else result.reason
    attempts = task.attempts - 1
    return DeliveryUpdate(
        notification=task.notification, state="pending", attempts=attempts, due_seconds=0, reason=reason
    )
