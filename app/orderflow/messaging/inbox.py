# SPDX-License-Identifier: Apache-2.0
"""Which messages a queue's consumer has handled already; the first line against duplicates."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from orderflow.messaging.service import Transaction

_CLAIM = """
insert into inbox (queue, message_id, received_at)
select %(queue)s, id, %(now)s from unnest(%(ids)s::uuid[]) as id
on conflict do nothing returning message_id
"""
_FORGET = "delete from inbox where queue = %(queue)s and message_id = any(%(ids)s::uuid[])"
_PRUNE = "delete from inbox where received_at < %(before)s"


class Inbox:
    """The inbox of one queue, in the database and the transaction of its consumer."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def claim(self, transaction: Transaction, ids: Iterable[UUID]) -> set[UUID]:
        """Mark these messages as handled; those that were not marked before. Waits for a rival transaction."""
        parameters = {"queue": self._queue, "ids": sorted(ids), "now": transaction.now}
        return {row[0] for row in transaction.execute(_CLAIM, parameters)}

    def forget(self, transaction: Transaction, ids: Sequence[UUID]) -> None:
        """Unmark messages that will come again: retried ones, and dead letters that may be replayed."""
        transaction.execute(_FORGET, {"queue": self._queue, "ids": ids})


def prune(transaction: Transaction, *, retention_days: int) -> None:
    """Forget messages that are older than the retention."""
    transaction.execute(_PRUNE, {"before": transaction.now - timedelta(days=retention_days)})
