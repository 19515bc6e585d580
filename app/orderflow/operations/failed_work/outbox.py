# SPDX-License-Identifier: Apache-2.0
"""``orderflow outbox``: events that the broker refused for good."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orderflow.messaging.publish import parking
from orderflow.messaging.service import UnitOfWork
from orderflow.operations.failed_work.command import Action, FailedWork, Selection


def _find(unit_of_work: UnitOfWork, selection: Selection) -> Sequence[tuple[Any, ...]]:
    return parking.find(unit_of_work, ids=selection.ids, reason=selection.reason, limit=selection.limit)


def _retry(unit_of_work: UnitOfWork, ids: Sequence[str]) -> None:
    parking.retry(unit_of_work, [UUID(row_id) for row_id in ids])


def _discard(unit_of_work: UnitOfWork, ids: Sequence[str]) -> None:
    parking.discard(unit_of_work, [UUID(row_id) for row_id in ids])


OUTBOX = FailedWork(
    command="outbox",
    columns=("message id", "reason", "routing key", "correlation id", "bytes", "created at", "parked at"),
    find=_find,
    actions={
        "retry": Action(meaning="publish them again, with the same message id", done="retried", apply=_retry),
        "discard": Action(meaning="delete them for ever", done="discarded", apply=_discard, final=True),
    },
)
arguments, main = OUTBOX.arguments, OUTBOX.main
