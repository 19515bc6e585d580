# SPDX-License-Identifier: Apache-2.0
"""``orderflow refunds``: refunds that the provider refused for good."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orderflow.messaging.service import UnitOfWork
from orderflow.operations.failed_work.command import Action, FailedWork, Selection
from orderflow.services.payments import failed_refunds


def _find(unit_of_work: UnitOfWork, selection: Selection) -> Sequence[tuple[Any, ...]]:
    return failed_refunds.find(unit_of_work, order_ids=selection.ids, refusal=selection.reason, limit=selection.limit)


def _retry(unit_of_work: UnitOfWork, order_ids: Sequence[str]) -> None:
    failed_refunds.retry(unit_of_work, [UUID(order_id) for order_id in order_ids])


def _settle(unit_of_work: UnitOfWork, order_ids: Sequence[str]) -> None:
    failed_refunds.settle(unit_of_work, [UUID(order_id) for order_id in order_ids])


REFUNDS = FailedWork(
    command="refunds",
    service="payments",
    columns=("order id", "charge id", "amount", "currency", "reason", "failed at"),
    find=_find,
    actions={
        "retry": Action(meaning="ask the provider again, with the same key", done="retried", apply=_retry),
        "settle": Action(
            meaning="record refunds that were made by hand, and tell the customers",
            done="settled",
            apply=_settle,
            final=True,
        ),
    },
)
arguments, main = REFUNDS.arguments, REFUNDS.main
