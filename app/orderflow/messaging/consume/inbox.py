# SPDX-License-Identifier: Apache-2.0
"""Stores which messages a queue's consumer has handled, to recognise duplicates."""

from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from uuid import UUID

from orderflow.messaging.service import PrunedPage, Transaction
from orderflow.messaging.uuid7 import first_uuid7

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
# Visits the whole page and deletes what is old in it: a message may have been handled long after it was published.
_PRUNE_PAGE = """
with page as materialized (
    select ctid, message_id, received_at from inbox
    where queue = %(queue)s and message_id > %(after)s and message_id < %(bound)s
    order by queue, message_id limit %(limit)s),
deleted as (
    delete from inbox where ctid = any(array(select ctid from page where received_at < %(before)s)) returning 1)
select (select count(*) from deleted), (select count(*) from page),
       (select message_id from page order by message_id desc limit 1)
"""
_ON_THE_WAY = timedelta(hours=1)
"""Most messages are handled within this time after they were published."""
_AHEAD = timedelta(days=1)
"""No clock is that far ahead: an id with such a time is not of version 7, and its order is no order of time."""
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)


_as_int = attrgetter("int")


class Inbox:
    """The inbox of one queue, in the database and the transaction of its consumer."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    @property
    def queue(self) -> str:
        """The queue as its service declares it: the partitions of a queue have one inbox."""
        return self._queue

    def claim(self, transaction: Transaction, ids: Sequence[UUID]) -> set[UUID]:
        """Mark these messages as handled; returns those that were marked before.

        The ids must be distinct. Waits for a concurrent transaction with the same ids.
        """
        parameters = {"queue": self._queue, "ids": sorted(ids, key=_as_int), "now": transaction.now}
        return {row[0] for row in transaction.execute(_CLAIM, parameters)}

    def forget(self, transaction: Transaction, ids: Sequence[UUID]) -> None:
        """Unmark messages that will be delivered again: retried ones, and dead letters that may be replayed."""
        transaction.execute(_FORGET, {"queue": self._queue, "ids": ids})


class PrunedInbox:
    """The inbox of a queue, from which messages go that were handled more than ``retention_days`` ago.

    It follows the primary key. Ids of version 7 are in the order of their time, so a round visits what has become old
    since the last round, however many rows are kept. A round from the very beginning also visits the ids of foreign
    publishers, which may be of another version.
    """

    def __init__(self, queue: str, *, retention_days: int) -> None:
        self.name = f"inbox:{queue}"
        self._queue = queue
        self._retention = timedelta(days=retention_days)

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """See ``Prunable``."""
        before = transaction.now - self._retention
        old, ahead = first_uuid7(before - _ON_THE_WAY), first_uuid7(transaction.now + _AHEAD)
        after = UUID(position) if position else ahead
        if old <= after < ahead:
            return PrunedPage(deleted=0, position=str(after), more=False)
        bound = old if after < old else _LAST
        parameters = {"queue": self._queue, "after": after, "bound": bound, "before": before, "limit": limit}
        ((deleted, visited, last),) = transaction.execute(_PRUNE_PAGE, parameters)
        if visited == limit:
            return PrunedPage(deleted=deleted, position=str(last), more=True)
        if bound == old:
            return PrunedPage(deleted=deleted, position=str(old), more=False)
        return PrunedPage(deleted=deleted, position=str(_FIRST), more=True)
