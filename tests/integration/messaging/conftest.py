# SPDX-License-Identifier: Apache-2.0
"""What the tests of the messaging core need of a database."""

from collections.abc import Iterator

import pytest

from orderflow.messaging.postgres.connection_watchdog import ConnectionWatchdog
from tests.rigs.consumer import prepare


@pytest.fixture
def url(database: str) -> str:
    """A database with the tables of the core and the one of effects."""
    prepare(database)
    return database


@pytest.fixture
def watchdog() -> Iterator[ConnectionWatchdog]:
    """It looks often enough for a test."""
    watchdog = ConnectionWatchdog(interval_seconds=0.05)
    watchdog.start()
    yield watchdog
    watchdog.stop()
