# SPDX-License-Identifier: Apache-2.0
"""Waits for the database at the start of a process, checks that it keeps commits, migrates or checks its schema."""

import logging

from orderflow.bootstrap.container import Container
from orderflow.database_schema import database_schema
from orderflow.messaging.backoff import Backoff
from orderflow.messaging.errors import InfrastructureError, SchemaMismatch
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.durability import LosesCommits, require_durable
from orderflow.messaging.postgres.migrations import migrate, require_current

log = logging.getLogger(__name__)


def prepare_database(container: Container) -> bool:
    """Wait for the database and migrate or check its schema as ``ORDERFLOW_MIGRATE`` says.

    False when the process was stopped meanwhile. Raises SchemaMismatch when the schema does not fit the code, and
    LosesCommits when the server may lose commits and ``ORDERFLOW_ACCEPT_DATA_LOSS`` does not accept that.
    """
    backoff, database, stopping = Backoff(), container.database(by_key=False), container.process.stopping
    try:
        while not stopping.is_set():
            try:
                if container.settings.accept_data_loss == "on":
                    _warn_of_loss(database)
                _prepare(database, container.service.name, container.settings.migrate)
            except LosesCommits as error:
                log.error("database.loses_commits", extra={"problems": error.problems})
                raise
            except SchemaMismatch as error:
                log.error("database.mismatch", extra={"problems": error.problems})
                raise
            except InfrastructureError as error:
                log.warning("database.waiting", extra={"error": str(error)})
                container.clock.wait(stopping, backoff.next())
            else:
                log.info("database.ready")
                return True
    finally:
        database.close()
    return False


def _warn_of_loss(database: Database) -> None:
    try:
        with database.transaction() as transaction:
            require_durable(transaction.execute)
    except LosesCommits as error:
        log.warning("database.loses_commits", extra={"problems": error.problems})


def _prepare(database: Database, service: str, mode: str) -> None:
    components = database_schema(service)
    if mode == "on":
        migrate(database, components)
    else:
        require_current(database, components, accept_newer=mode == "accept-newer")
