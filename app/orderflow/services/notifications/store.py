# SPDX-License-Identifier: Apache-2.0
"""The table of notifications: a constant number of statements per batch, rows locked in the order of their keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from orderflow.messaging.service import Transaction
from orderflow.services.notifications.domain import Notification

_ADD = """
insert into notifications (subject, kind, state, due_at, payload, trace, created_at, updated_at)
select subject, kind, 'pending', %(now)s, payload, trace, %(now)s, %(now)s
from unnest(%(subjects)s::text[], %(kinds)s::text[], %(payloads)s::jsonb[], %(traces)s::jsonb[])
     as wanted (subject, kind, payload, trace)
order by subject, kind
on conflict do nothing
"""
# Materialized here and below: a subquery may be executed for every row, and then takes more rows than its limit.
_CLAIM = """
with due as materialized (
    select subject, kind from notifications where due_at <= %(now)s order by due_at limit %(limit)s
    for update skip locked)
update notifications set due_at = %(leased_until)s, leased_by = %(owner)s, attempts = attempts + 1
from due where notifications.subject = due.subject and notifications.kind = due.kind
returning notifications.subject, notifications.kind, payload, trace, attempts,
          extract(epoch from %(now)s - coalesce(resent_at, created_at))::float8
"""
# The rows are locked first, in the order of their keys: an update alone locks rows in the order of its plan.
_RECORD = """
with locked as (
    select notifications.subject, notifications.kind, step.state, step.attempts, step.due_at, step.reason
    from notifications
    join unnest(%(subjects)s::text[], %(kinds)s::text[], %(states)s::text[], %(attempts)s::integer[],
                %(due_ats)s::timestamptz[], %(reasons)s::text[])
         as step (subject, kind, state, attempts, due_at, reason) using (subject, kind)
    where notifications.state = 'pending'
    order by notifications.subject, notifications.kind for update of notifications
)
update notifications set state = locked.state, attempts = locked.attempts, due_at = locked.due_at, leased_by = null,
                         reason = locked.reason, updated_at = %(now)s
from locked where notifications.subject = locked.subject and notifications.kind = locked.kind
returning notifications.kind, notifications.state
"""
_RESUME = """
with waiting as materialized (
    select subject, kind from notifications where due_at > %(now)s and due_at <= %(latest)s
    and leased_by is null and reason = any(%(reasons)s::text[]) for update skip locked)
update notifications set due_at = %(now)s
from waiting where notifications.subject = waiting.subject and notifications.kind = waiting.kind
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueNotification:
    """A notification that is due, the number of this attempt, and how long ago its first attempt was due."""

    notification: Notification
    attempts: int
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryUpdate:
    """The result of an attempt. ``due_seconds`` is the delay before the next one, None when there is none.

    ``attempts`` are those that count.
    """

    notification: Notification
    state: str
    attempts: int
    due_seconds: float | None = None
    reason: str | None = None


def add(transaction: Transaction, notifications: Sequence[Notification]) -> None:
    """Record notifications; a second notification with the same subject and kind changes nothing."""
    encode = msgspec.json.Encoder().encode
    transaction.execute(
        _ADD,
        {
            "now": transaction.now,
            "subjects": [notification.subject for notification in notifications],
            "kinds": [notification.kind for notification in notifications],
            "payloads": [encode(notification.payload).decode() for notification in notifications],
            "traces": [encode(notification.trace).decode() for notification in notifications],
        },
    )


def claim(transaction: Transaction, *, limit: int, lease: timedelta) -> list[DueNotification]:
    """Up to ``limit`` notifications that are due, leased: no other process claims them before the lease ends."""
    now, owner = transaction.now, transaction.owner
    rows = transaction.execute(_CLAIM, {"now": now, "leased_until": now + lease, "owner": owner, "limit": limit})
    return [
        DueNotification(
            notification=Notification(subject=subject, kind=kind, payload=payload, trace=trace),
            attempts=attempts,
            age_seconds=age,
        )
        for subject, kind, payload, trace, attempts, age in rows
    ]


def record(transaction: Transaction, changes: Sequence[DeliveryUpdate]) -> list[tuple[str, str]]:
    """Record the results of attempts; (kind, state) of each notification that was still pending."""
    rows = transaction.execute(
        _RECORD,
        {
            "now": transaction.now,
            "subjects": [change.notification.subject for change in changes],
            "kinds": [change.notification.kind for change in changes],
            "states": [change.state for change in changes],
            "attempts": [change.attempts for change in changes],
            "due_ats": [_due_at(change, transaction.now) for change in changes],
            "reasons": [change.reason for change in changes],
        },
    )
    return [(kind, state) for kind, state in rows]


def resume(transaction: Transaction, *, within: timedelta, reasons: Sequence[str]) -> None:
    """Notifications that wait after a send that failed for one of these reasons are due now."""
    parameters = {"now": transaction.now, "latest": transaction.now + within, "reasons": reasons}
    transaction.execute(_RESUME, parameters)


def _due_at(change: DeliveryUpdate, now: datetime) -> datetime | None:
    return None if change.due_seconds is None else now + timedelta(seconds=change.due_seconds)
