# SPDX-License-Identifier: Apache-2.0
"""Sends what there is to tell, a bounded number of times.

A notification is recorded once and sent at least once: when the process dies after a send and before its record,
it is sent again, with the same idempotency key. A receiver that must not see doubles drops what it knows by key.
"""

import logging
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.service import Transaction, UnitOfWork
from orderflow.services.notifications import store
from orderflow.services.notifications.senders import Sender, SendFailed
from orderflow.services.notifications.store import Change, DueNotification

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 12
FIRST_DELAY_SECONDS = 1.0
MOST_DELAY_SECONDS = 300.0
"""With 12 attempts the last one is about 25 minutes after the first."""
_OUTCOMES = {"sent": "sent", "pending": "retried", "failed": "failed"}

Result = SendFailed | None


class NotificationEffect:
    """The effects of notifications (``messaging.effects``)."""

    def __init__(
        self,
        sender: Sender,
        *,
        instrumentation: Instrumentation,
        most_attempts: int = MOST_ATTEMPTS,
    ) -> None:
        self._sender = sender
        self._instrumentation = instrumentation
        self._most_attempts = most_attempts

    def resources(self) -> AbstractAsyncContextManager[object]:
        """The sender's connections."""
        return self._sender.connections()

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> list[DueNotification]:
        """Notifications that are due, oldest first."""
        return store.claim(transaction, limit=limit, lease=lease)

    async def perform(self, task: DueNotification) -> Result:
        """Send once; None when the receiver took it."""
        span = self._instrumentation.calling("notify", task.notification.trace)
        outcome = "failed"
        try:
            await self._sender.send(task.notification, span.headers())
            outcome = "sent"
        except SendFailed as failure:
            return failure
        finally:
            span.finished(outcome)
        return None

    def record(self, transaction: UnitOfWork, pairs: Sequence[tuple[DueNotification, Result]]) -> None:
        """One statement, whatever the number of attempts; they are counted after the commit."""
        changes = [judge(task, result, most_attempts=self._most_attempts) for task, result in pairs]
        written = Counter(store.record(transaction, changes))
        transaction.after_commit(partial(self._count, written))
        for given_up in (change for change in changes if change.state == "failed"):
            log.warning("notification.failed", extra={"key": given_up.notification.key, "reason": given_up.reason})

    def _count(self, written: Counter[tuple[str, str]]) -> None:
        for kind, state in written.elements():
            self._instrumentation.notification(kind, _OUTCOMES[state])


def judge(task: DueNotification, result: Result, *, most_attempts: int = MOST_ATTEMPTS) -> Change:
    """What an attempt makes of a notification: sent, to be tried again later, or failed for good."""
    if result is None:
        return Change(notification=task.notification, state="sent")
    if task.attempts >= most_attempts:
        return Change(notification=task.notification, state="failed", reason=result.reason)
    return Change(
        notification=task.notification,
        state="pending",
        due_seconds=delay_seconds(task.attempts),
        reason=result.reason,
    )


def delay_seconds(attempts: int) -> float:
    """The pause after so many attempts: 1 s, doubling up to 300 s, each shortened by up to a half at random."""
    step = min(MOST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(attempts - 1, 16))
    return random.uniform(step / 2, step)  # noqa: S311 - spreads load, keeps no secret
