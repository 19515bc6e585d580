# SPDX-License-Identifier: Apache-2.0
"""Deletes idempotency keys that no client repeats any more."""

from datetime import UTC, datetime, timedelta

from orderflow.messaging.service import PrunedPage, Transaction

# From the position on, itself included: requests of one commit have the same time, and a page may end among them.
_PRUNE_PAGE = """
with page as materialized (
    select ctid, created_at from idempotency where created_at >= %(after)s and created_at < %(before)s
    order by created_at limit %(limit)s),
deleted as (delete from idempotency where ctid = any(array(select ctid from page)) returning 1)
select (select count(*) from deleted), (select max(created_at) from page)
"""
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)


class PrunedIdempotencyKeys:
    """Idempotency keys, which are deleted when they are older than ``hours``."""

    name = "idempotency"

    def __init__(self, *, hours: float) -> None:
        self._retention = timedelta(hours=hours)

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """See ``Prunable``."""
        before = transaction.now - self._retention
        after = datetime.fromisoformat(position) if position else _FIRST
        ((deleted, last),) = transaction.execute(_PRUNE_PAGE, {"after": after, "before": before, "limit": limit})
        more = deleted == limit
        return PrunedPage(deleted=deleted, position=(last if more else max(after, before)).isoformat(), more=more)
