# SPDX-License-Identifier: Apache-2.0
"""Stores which messages a queue's consumer has handled, to recognise duplicates."""

from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from uuid import UUID

from orderflow.messaging.service import Transaction

# The ids are sorted, so that two consumers with the same messages do not deadlock. Returns the known ids, because they
# are few.
_CLAIM = """
with claimed as (
    insert into inbox (queue, message_id, received_at)
    select %(queue)s, id, %(now)s from unnest(%(ids)s::uuid[]) as id
    on conflict do nothing returning message_id)
select id from unnest(%(ids)s::uuid[]) as id where not exists (select from claimed where message_id = id)
"""
_FORGET = "delete from inbox where queue = %(queue)s and message_id = any(%(ids)s::uuid[])"
_PRUNE = """
with pruned as (
    delete from inbox
    where ctid = any(array(select ctid from inbox where received_at < %(before)s limit %(limit)s))
    returning 1)
select count(*) from pruned
"""
_PRUNE_LIMIT = 10_000


_as_int = attrgetter("int")


class Inbox:
    """The inbox of one queue, in the database and the transaction of its consumer."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def claim(self, transaction: Transaction, ids: Sequence[UUID]) -> set[UUID]:
        """Mark these messages as handled; returns those that were marked before.

        The ids must be distinct. Waits for a concurrent transaction with the same ids.
        """
        parameters = {"queue": self._queue, "ids": sorted(ids, key=_as_int), "now": transaction.now}
        return {row[0] for row in transaction.execute(_CLAIM, parameters)}

    def forget(self, transaction: Transaction, ids: Sequence[UUID]) -> None:
        """Unmark messages that will be delivered again: retried ones, and dead letters that may be replayed."""
        transaction.execute(_FORGET, {"queue": self._queue, "ids": ids})


def prune(transaction: Transaction, *, retention_days: int) -> bool:
    """Delete rows that are older than the retention, up to a limit; true when there may be more."""
    before = transaction.now - timedelta(days=retention_days)
    ((pruned,),) = transaction.execute(_PRUNE, {"before": before, "limit": _PRUNE_LIMIT})
    return bool(pruned == _PRUNE_LIMIT)
