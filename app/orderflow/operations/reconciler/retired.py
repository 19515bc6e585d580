# SPDX-License-Identifier: Apache-2.0
"""Up to which orders the services have deleted rows, each at its own time."""

from collections.abc import Mapping
from uuid import UUID

from orderflow.messaging.postgres.database import Database
from orderflow.messaging.uuid7 import first_uuid7
from orderflow.operations.reconciler.reading import FIRST, read

_BEFORE = {
    "orders": "select max(before) from retired_orders",
    "inventory": "select max(before) from retired_reservations",
    "payments": "select max(before) from retired_charges",
    "notifications": "select max(before) from retired_notifications",
}


def deleted_below(databases: Mapping[str, Database]) -> UUID:
    """Orders with this id or a higher one have all their rows. A row of another one is missing when it was deleted."""
    times = [read(databases[name], statement)[0][0] for name, statement in _BEFORE.items()]
    return max((first_uuid7(before) for before in times if before is not None), default=FIRST)
