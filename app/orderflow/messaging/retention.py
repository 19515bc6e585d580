# SPDX-License-Identifier: Apache-2.0
"""Deletes the rows of old work, and keeps their sums. What was deleted is not done again.

A row is the proof that something was done: an order is charged once, because its charge has a row. A copy of a message
may come years later, for example from the dead letters, so a row may go only when such a copy is recognised without it.

Invariants:

- The statement that deletes rows adds them to a table of sums. There it also notes ``before``: everything that it
  deleted was last changed before that time.
- An event that was published before the latest such time, or less than a day after it, is old. A row is written after
  the event that causes it was published, so an event whose row is gone is old.
- An old event is rejected, unless its row is still there: then the row shows what was done, as ever. The row is locked
  when it is looked up, so it is not deleted meanwhile.
- That time is read in the transaction of the handler, so it also holds when the retention is raised or switched off. It
  is read only when a batch has an event that is older than a day.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from orderflow.messaging.service import Handler, Incoming, Outcome, PrunedPage, Reject, Transaction, UnitOfWork
from orderflow.messaging.uuid7 import first_uuid7

EVENT_TOO_OLD = Reject("event_too_old")
"""Whether the event was handled is no longer known: the rows of its time are deleted."""
MARGIN = timedelta(days=1)
"""The clocks of two database servers differ by less."""
SHORTEST_DAYS = 2
"""No retention is shorter, so an event younger than this less the margin is never rejected."""
_ALWAYS_RECENT = timedelta(days=SHORTEST_DAYS) - MARGIN
_FIRST = UUID(int=0)


class RetiredRows:
    """Rows that are deleted ``days`` after the id in their key was made and their work has ended; their sums stay.

    ``statement`` visits at most ``limit`` rows whose ids of version 7 are above ``after`` and below ``bound``, in the
    order of an index. Of these it deletes what was last changed before ``before`` and needs no more work. It returns
    the number of deleted rows, whether there may be more, and the last id that it visited. A row that stays is visited
    again by the daily round from the beginning.
    """

    def __init__(self, name: str, statement: str, *, days: int) -> None:
        self.name = name
        self._statement = statement
        self._retention = timedelta(days=days)

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """See ``Prunable``."""
        before = transaction.now - self._retention
        after, bound = UUID(position) if position else _FIRST, first_uuid7(before)
        if after >= bound:
            return PrunedPage(deleted=0, position=str(after), more=False)
        parameters = {"after": after, "bound": bound, "before": before, "limit": limit}
        ((deleted, more, last),) = transaction.execute(self._statement, parameters)
        return PrunedPage(deleted=deleted, position=str(last if more else bound), more=more)


class RecentEvents:
    """A handler that rejects the events whose rows may be deleted; ``handler`` gets the others.

    ``deleted_before`` is a query for the latest time before which rows were deleted, or null. ``lock`` locks the rows
    of the correlation ids ``ids`` and returns these ids; without it no old event is handled. ``retention_days`` is 0
    when nothing is deleted now.
    """

    def __init__(self, handler: Handler, *, deleted_before: str, lock: str = "", retention_days: int) -> None:
        self._handler = handler
        self._deleted_before = deleted_before
        self._lock = lock
        self._retention = timedelta(days=retention_days)

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """See ``Handler``."""
        if not messages or min(item.event.timestamp for item in messages) >= unit_of_work.now - _ALWAYS_RECENT:
            return self._handler.handle(messages, unit_of_work)
        rejected = self._rejected(messages, unit_of_work)
        recent = [message for message in messages if message.message_id not in rejected]
        outcomes = self._handler.handle(recent, unit_of_work) if recent else ()
        handled = dict(zip([message.message_id for message in recent], outcomes, strict=True))
        return [handled.get(message.message_id, EVENT_TOO_OLD) for message in messages]

    def _rejected(self, messages: Sequence[Incoming], transaction: Transaction) -> set[UUID]:
        oldest = self._oldest(transaction)
        old = [message for message in messages if oldest is not None and message.event.timestamp < oldest]
        known = set[str]()
        if old and self._lock:
            ids = sorted({message.event.correlation_id for message in old})
            known = {str(row[0]) for row in transaction.execute(self._lock, {"ids": ids})}
        return {message.message_id for message in old if message.event.correlation_id not in known}

    def _oldest(self, transaction: Transaction) -> datetime | None:
        """An event before this time is old; None: no event is."""
        ((deleted_before,),) = transaction.execute(self._deleted_before)
        times = [] if deleted_before is None else [deleted_before]
        if self._retention:
            times.append(transaction.now - self._retention)  # what a pruner deletes at this moment
        return max(times) + MARGIN if times else None
