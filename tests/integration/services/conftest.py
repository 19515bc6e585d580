# SPDX-License-Identifier: Apache-2.0
"""The database of inventory."""

from collections.abc import Iterator

import pytest

from orderflow.messaging.postgres.database import Database
from tests.rigs.service_database import service_database


@pytest.fixture
def inventory(database: str) -> Iterator[Database]:
    """A database with the tables of inventory."""
    with service_database(database, "inventory") as opened:
        yield opened
