# SPDX-License-Identifier: Apache-2.0
"""Starts orderflow with an inventory that fails: for 7 units once, for 9 units until a file exists.

``python -m tests.rigs.failing_inventory FILE COMMAND…``
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from orderflow.__main__ import main
from orderflow.events import OrderCreated
from orderflow.messaging.service import Incoming, Outcome, Reject, Retry, UnitOfWork
from orderflow.services.inventory.handlers import InventoryUpdates

REPAIRED = Path(sys.argv[1])
handle = InventoryUpdates.handle


def failure(message: Incoming) -> Outcome | None:
    """The outcome of a message that must fail, else None."""
    if not isinstance(message.event, OrderCreated):
        return None
    quantity = message.event.items[0].quantity
    if quantity == 7 and message.retry_count == 0:
        return Retry("injected")
    return Reject("injected") if quantity == 9 and not REPAIRED.exists() else None


def handle_or_fail(self: InventoryUpdates, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
    failures = {message.message_id: failure(message) for message in messages}
    good = [message for message in messages if failures[message.message_id] is None]
    outcomes = iter(handle(self, good, unit_of_work) if good else [])
    return [failures[message.message_id] or next(outcomes) for message in messages]


if __name__ == "__main__":
    InventoryUpdates.handle = handle_or_fail  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
