# SPDX-License-Identifier: Apache-2.0
"""Deletes old notifications and keeps their numbers; an event of their time is not notified again.

They are deleted along the primary key. Its subjects are of two kinds. Ids of orders are of version 7 and sort by time
as text, too, in every collation: they have the same form, and digits sort before letters. A round visits those that
have become old. The others are a SKU and a version. They are visited once a day, whatever their age; there are few.
"""

from datetime import datetime, timedelta

from orderflow.messaging.retention import RecentEvents
from orderflow.messaging.service import Handler, PrunedPage, Transaction
from orderflow.messaging.uuid7 import first_uuid7

# Pending notifications stay. Failed ones go, too: their time for retries ended long ago.
_PRUNE_PAGE = """
with page as materialized (
    select ctid, subject, kind from notifications where (subject, kind) > (%(subject)s, %(kind)s) {bounded}
    order by subject, kind limit %(limit)s),
retired as (
    delete from notifications where ctid = any(array(select ctid from page)) and updated_at < %(before)s
    and state in ('sent', 'failed') returning kind, state),
counted as (
    insert into retired_notifications (kind, state, notifications, before)
    select kind, state, count(*), %(before)s from retired group by kind, state
    on conflict (kind, state) do update set
        notifications = retired_notifications.notifications + excluded.notifications,
        before = greatest(retired_notifications.before, excluded.before))
select (select count(*) from retired), (select count(*) from page) = %(limit)s,
       (select subject || ' ' || kind from page order by subject desc, kind desc limit 1)
"""
_BOUNDED = _PRUNE_PAGE.format(bounded="and subject < %(bound)s")
_TO_THE_END = _PRUNE_PAGE.format(bounded="")
_AHEAD = timedelta(days=1)
"""No clock is that far ahead: what sorts behind an id of that time is not an id of an order."""
_DELETED_BEFORE = "select max(before) from retired_notifications"


class RetiredNotifications:
    """Notifications whose last change was more than ``days`` ago: those up to the ids of that time."""

    name = "notifications"

    def __init__(self, *, days: int) -> None:
        self._retention = timedelta(days=days)

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """See ``Prunable``."""
        before = transaction.now - self._retention
        bound = str(first_uuid7(before))
        deleted, more, last = _page(transaction, _BOUNDED, position, limit, before, bound=bound)
        return PrunedPage(deleted=deleted, position=last if more else f"{bound} ", more=more)


class RetiredOtherNotifications:
    """The same of those that sort behind the ids of orders, once a day."""

    name = "other_notifications"

    def __init__(self, *, days: int) -> None:
        self._retention = timedelta(days=days)

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """See ``Prunable``."""
        after = position or f"{first_uuid7(transaction.now + _AHEAD)} "
        before = transaction.now - self._retention
        deleted, more, last = _page(transaction, _TO_THE_END, after, limit, before)
        return PrunedPage(deleted=deleted, position=last, more=more)


def recent_events(handler: Handler, *, retention_days: int) -> Handler:
    """A handler that gets only the events whose notifications are not deleted."""
    return RecentEvents(handler, deleted_before=_DELETED_BEFORE, retention_days=retention_days)


def _page(
    transaction: Transaction, statement: str, position: str, limit: int, before: datetime, *, bound: str | None = None
) -> tuple[int, bool, str]:
    """One page behind this position: how many it deleted, whether there may be more, and where it ended."""
    subject, _, kind = position.partition(" ")
    parameters = {"subject": subject, "kind": kind, "limit": limit, "before": before}
    ((deleted, more, last),) = transaction.execute(statement, parameters | ({} if bound is None else {"bound": bound}))
    return deleted, more, last or position
