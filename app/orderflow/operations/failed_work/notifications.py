# SPDX-License-Identifier: Apache-2.0
"""``orderflow notifications``: notifications that no receiver accepted in time."""

from collections.abc import Sequence
from typing import Any

from orderflow.messaging.service import UnitOfWork
from orderflow.operations.failed_work.command import Action, FailedWork, Selection
from orderflow.services.notifications import failed_notifications


def _find(unit_of_work: UnitOfWork, selection: Selection) -> Sequence[tuple[Any, ...]]:
    return failed_notifications.find(unit_of_work, keys=selection.ids, reason=selection.reason, limit=selection.limit)


NOTIFICATIONS = FailedWork(
    command="notifications",
    columns=("key", "reason", "attempts", "created at", "failed at"),
    find=_find,
    actions={
        "resend": Action(
            meaning="send them again, with the same idempotency key",
            done="resent",
            apply=failed_notifications.resend,
        )
    },
)
arguments, main = NOTIFICATIONS.arguments, NOTIFICATIONS.main
