# SPDX-License-Identifier: Apache-2.0
"""Records which outbox rows the broker refused, and parks those that it refuses for good, until an operator decides.

==================================== ==================================================================================
The broker                           Consequence
==================================== ==================================================================================
says that the message is too large   parked at once: no further attempt can succeed
returns it: no queue is bound        tried again after every lease; parked when it was returned for ``park_seconds``
closes the channel because of it     tried again after growing waits, a minute at most; parked after ``park_seconds``
nacks it: one of its queues is full  tried again in its turn (``slow_start``); never parked
loses the connection                 never parked
==================================== ==================================================================================

A parked row has an infinite lease, and so has a nacked one while it waits for its turn. The time of refusal counts from
the first one, so an outage of the broker does not count, nor do nacks: ``refused_at`` of a nacked row is the last one.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from orderflow.messaging.broker import Failure
from orderflow.messaging.service import Transaction

log = logging.getLogger(__name__)

REFUSALS = frozenset({Failure.TOO_LARGE, Failure.RETURNED, Failure.REFUSED, Failure.NACKED})
PARK_SECONDS = 3600.0
MAX_LOGGED = 10
# Only its own rows: another process may have taken a row since.
_REFUSE = """
with refused as materialized (
    select outbox.id, failed.reason,
           case when 'nacked' in (failed.reason, outbox.reason) then null else refused_at end as since
    from outbox join unnest(%(ids)s::uuid[], %(reasons)s::text[]) as failed (id, reason) using (id)
    where leased_by = %(owner)s order by outbox.id for update of outbox),
judged as (
    select id, reason, coalesce(since, statement_timestamp()) as since, reason = 'nacked' as waits,
           reason = 'too_large'
           or since <= statement_timestamp() - make_interval(secs => %(park_seconds)s) as for_good
    from refused)
update outbox set refused_at = since, reason = judged.reason,
       parked_at = case when for_good then statement_timestamp() end,
       leased_by = case when for_good or waits then null else leased_by end,
       leased_until = case when for_good or waits then 'infinity'
                           when judged.reason = 'returned' then leased_until
                           else greatest(leased_until, statement_timestamp()
                                         + least(statement_timestamp() - since, interval '1 minute')) end
from judged where outbox.id = judged.id
returning outbox.id, judged.reason, parked_at is not null
"""
_FIND = """
select id, reason, routing_key, properties ->> 'correlation_id', octet_length(body), created_at, parked_at from outbox
where parked_at is not null and (%(ids)s::text[] = '{}' or id::text = any(%(ids)s::text[]))
and reason = coalesce(%(reason)s::text, reason) order by parked_at limit %(limit)s for update
"""
_RETRY = """
update outbox set parked_at = null, refused_at = null, reason = null, leased_until = statement_timestamp()
where id = any(%(ids)s::uuid[]) and parked_at is not null
"""
_DISCARD = "delete from outbox where id = any(%(ids)s::uuid[]) and parked_at is not null"


def refuse(transaction: Transaction, failures: Mapping[UUID, Failure], *, park_seconds: float) -> dict[UUID, str]:
    """Record these refusals in one statement; the reason of each row that is parked now."""
    rows = transaction.execute(
        _REFUSE,
        {
            "ids": list(failures),
            "reasons": [failure.value for failure in failures.values()],
            "owner": transaction.owner,
            "park_seconds": float(park_seconds),
        },
    )
    return {row_id: reason for row_id, reason, parked in rows if parked}


def log_parked(parked: Mapping[UUID, str]) -> None:
    """One line for the rows that a transaction parked, because a missing binding parks many."""
    names = [str(row_id) for row_id in list(parked)[:MAX_LOGGED]]
    log.error("outbox.parked", extra={"reasons": dict(Counter(parked.values())), "message_ids": names})


def find(transaction: Transaction, *, ids: Sequence[str], reason: str | None, limit: int) -> list[tuple[Any, ...]]:
    """The parked rows, those that were parked first first, locked; no ids: all.

    Message id, reason, routing key, correlation id, size, when it was written, when it was parked.
    """
    return transaction.execute(_FIND, {"ids": list(ids), "reason": reason, "limit": limit})


def retry(transaction: Transaction, ids: Sequence[UUID]) -> None:
    """Publish these again: the relay takes them within its interval."""
    transaction.execute(_RETRY, {"ids": ids})


def discard(transaction: Transaction, ids: Sequence[UUID]) -> None:
    """Delete these; they are never published."""
    transaction.execute(_DISCARD, {"ids": ids})
