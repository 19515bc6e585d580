# SPDX-License-Identifier: Apache-2.0
"""Handles the messages of notifications: records the notifications. ``effects`` sends them."""

from collections.abc import Callable, Sequence

from orderflow.messaging.service import DONE, Incoming, Outcome, UnitOfWork
from orderflow.services.notifications import store
from orderflow.services.notifications.domain import notification


class NotificationRequests:
    """Handles queue ``notification_requests``, with one statement per batch; ``wake`` is called after the commit."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """Every message is done; its notification is recorded."""
        if messages:
            store.add(unit_of_work, [notification(message.event, message.trace) for message in messages])
            unit_of_work.after_commit(self._wake)
        return [DONE] * len(messages)
