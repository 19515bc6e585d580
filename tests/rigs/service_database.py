# SPDX-License-Identifier: Apache-2.0
"""A real database with the tables of one service."""

from collections.abc import Iterator
from contextlib import contextmanager

from orderflow.database_schema import database_schema
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import migrate


@contextmanager
def service_database(url: str, name: str) -> Iterator[Database]:
    """A connection to a database after the tables of the core and of one service were created in it."""
    database = Database(url)
    try:
        migrate(database, database_schema(name))
        yield database
    finally:
        database.close()


def prepare_service(url: str, name: str) -> None:
    """Create the tables of the core and of one service."""
    with service_database(url, name):
        pass
