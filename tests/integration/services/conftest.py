# SPDX-License-Identifier: Apache-2.0
"""The database of inventory."""

from collections.abc import Iterator

import pytest

from orderflow.database_schema import database_schema
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import migrate


@pytest.fixture
def inventory(database: str) -> Iterator[Database]:
    """A database with the tables of inventory."""
    opened = Database(database)
    migrate(opened, database_schema("inventory"))
    yield opened
    opened.close()
