# SPDX-License-Identifier: Apache-2.0
"""Notifications that failed for good: an operator finds them, and has them sent again."""

from collections.abc import Sequence
from typing import Any

from orderflow.messaging.service import Transaction

# The id is the idempotency key; kinds contain no colon.
_FIND = """
select subject || ':' || kind, reason, attempts, created_at, updated_at from notifications
where state = 'failed' and (%(keys)s::text[] = '{}' or subject || ':' || kind = any(%(keys)s::text[]))
and coalesce(reason, '') = coalesce(%(reason)s::text, reason, '') order by updated_at limit %(limit)s for update
"""
_RESEND = """
update notifications set state = 'pending', attempts = 0, due_at = %(now)s, resent_at = %(now)s, updated_at = %(now)s
where state = 'failed' and (subject, kind) in (select * from unnest(%(subjects)s::text[], %(kinds)s::text[]))
"""


def find(transaction: Transaction, *, keys: Sequence[str], reason: str | None, limit: int) -> list[tuple[Any, ...]]:
    """The failed notifications, those that failed first first, locked; no keys: all.

    Key, reason, attempts, when it was caused, when it failed.
    """
    return transaction.execute(_FIND, {"keys": list(keys), "reason": reason, "limit": limit})


def resend(transaction: Transaction, keys: Sequence[str]) -> None:
    """Send these again, with the same key, for as long as a new notification."""
    parts = [key.rpartition(":") for key in keys]
    parameters = {
        "now": transaction.now,
        "subjects": [subject for subject, _, _ in parts],
        "kinds": [kind for _, _, kind in parts],
    }
    transaction.execute(_RESEND, parameters)
