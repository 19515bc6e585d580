# SPDX-License-Identifier: Apache-2.0
"""Refunds that the provider refused for good: an operator finds them, and requests them again or settles them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orderflow.events import PaymentRefunded
from orderflow.messaging.service import Transaction, UnitOfWork
from orderflow.services.payments.effects import CANCELLED

# Ids are compared as text, because an operator may have typed them.
_FIND = """
select order_id, charge_id, amount, currency, refusal, updated_at from charges
where state = 'refund_failed' and (%(ids)s::text[] = '{}' or order_id::text = any(%(ids)s::text[]))
and refusal = coalesce(%(refusal)s::text, refusal) order by updated_at limit %(limit)s for update
"""
_RETRY = """
update charges set state = 'refund_requested', attempts = 0, due_at = %(now)s, updated_at = %(now)s
where order_id = any(%(order_ids)s::uuid[]) and state = 'refund_failed'
"""
_SETTLE = """
update charges set state = 'refunded', attempts = 0, updated_at = %(now)s
where order_id = any(%(order_ids)s::uuid[]) and state = 'refund_failed'
returning order_id, user_id, amount, currency, charge_id, reason, caused_by, trace
"""


def find(
    transaction: Transaction, *, order_ids: Sequence[str], refusal: str | None, limit: int
) -> list[tuple[Any, ...]]:
    """The failed refunds, oldest first, locked: order, charge, amount, currency, reason, when. No ids: all orders."""
    parameters = {"ids": list(order_ids), "refusal": refusal, "limit": limit}
    return transaction.execute(_FIND, parameters)


def retry(transaction: Transaction, order_ids: Sequence[UUID]) -> None:
    """Request these refunds again, with the same idempotency key."""
    transaction.execute(_RETRY, {"now": transaction.now, "order_ids": order_ids})


def settle(unit_of_work: UnitOfWork, order_ids: Sequence[UUID]) -> None:
    """Record these refunds as made, and publish one event for each."""
    rows = unit_of_work.execute(_SETTLE, {"now": unit_of_work.now, "order_ids": order_ids})
    for order_id, user_id, amount, currency, charge_id, reason, caused_by, trace in rows:
        event = PaymentRefunded(
            timestamp=unit_of_work.now,
            order_id=order_id,
            user_id=user_id,
            total_amount=amount,
            currency=currency,
            charge_id=charge_id,
            reason=reason or CANCELLED,
        )
        unit_of_work.publish(event, causation_id=caused_by, trace=trace)
