# SPDX-License-Identifier: Apache-2.0
"""Sends notifications, each a bounded number of times.

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
from orderflow.services.notifications.senders import Sender, SendFailed
from orderflow.services.notifications.store import DeliveryUpdate, DueNotification

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 12
FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 300.0
"""With 12 attempts the last one is 9 to 19 minutes after the first, plus the duration of the sends."""
_OUTCOMES = {"sent": "sent", "pending": "retried", "failed": "failed"}

Result = SendFailed | None


class NotificationEffect:
    """The ``messaging.effects.Effect`` that sends notifications."""

    def __init__(
        self,
        sender: Sender,
        *,
        instrumentation: Instrumentation,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._sender = sender
        self._instrumentation = instrumentation
        self._max_attempts = max_attempts

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

    def record(self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[DueNotification, Result]]) -> None:
        """Record the attempts in one statement; count them after the commit."""
        changes = [after_attempt(task, result, max_attempts=self._max_attempts) for task, result in pairs]
        written = Counter(store.record(unit_of_work, changes))
        unit_of_work.after_commit(partial(self._count, written))
        for failed in (change for change in changes if change.state == "failed"):
            log.warning("notification.failed", extra={"key": failed.notification.key, "reason": failed.reason})

    def _count(self, written: Counter[tuple[str, str]]) -> None:
        for kind, state in written.elements():
            self._instrumentation.notification(kind, _OUTCOMES[state])


def after_attempt(task: DueNotification, result: Result, *, max_attempts: int = MAX_ATTEMPTS) -> DeliveryUpdate:
    """The state of a notification after an attempt: sent, pending with a delay, or failed for good."""
    if result is None:
        return DeliveryUpdate(notification=task.notification, state="sent")
    if task.attempts >= max_attempts:
        return DeliveryUpdate(notification=task.notification, state="failed", reason=result.reason)
    return DeliveryUpdate(
        notification=task.notification,
        state="pending",
        due_seconds=delay_seconds(task.attempts - 1, first=FIRST_DELAY_SECONDS, maximum=MAX_DELAY_SECONDS),
        reason=result.reason,
    )
