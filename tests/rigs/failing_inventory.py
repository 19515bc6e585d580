# SPDX-License-Identifier: Apache-2.0
"""Starts orderflow with an inventory that stumbles: over 7 units once, over 9 units until a file exists.

``python -m tests.rigs.failing_inventory FILE COMMAND…``
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from orderflow.__main__ import main
from orderflow.events import OrderCreated
from orderflow.messaging.service import Incoming, Outcome, Reject, Retry, UnitOfWork
from orderflow.services.inventory.handlers import InventoryUpdates

HEALED = Path(sys.argv[1])
handle = InventoryUpdates.handle


def stumble(message: Incoming) -> Outcome | None:
    """What goes wrong with this message, if anything."""
    if not isinstance(message.event, OrderCreated):
        return None
    quantity = message.event.items[0].quantity
    if quantity == 7 and message.retry_count == 0:
        return Retry("stumbled")
    return Reject("stumbled") if quantity == 9 and not HEALED.exists() else None


def stumbling(self: InventoryUpdates, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
    trouble = {message.message_id: stumble(message) for message in messages}
    good = [message for message in messages if trouble[message.message_id] is None]
    outcomes = iter(handle(self, good, unit_of_work) if good else [])
    return [trouble[message.message_id] or next(outcomes) for message in messages]


if __name__ == "__main__":
    InventoryUpdates.handle = stumbling  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
