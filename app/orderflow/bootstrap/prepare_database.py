# SPDX-License-Identifier: Apache-2.0
"""Waits for the database at the start of a process, and brings its tables up to date."""

import logging
from importlib.resources import files

from orderflow.bootstrap.container import Container
from orderflow.messaging.backoff import Backoff
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.database import migrate
from orderflow.messaging.service import Service

log = logging.getLogger(__name__)


def scripts(service: Service) -> list[tuple[str, str]]:
    """The SQL scripts of a service's database, by name, in the order in which they are applied."""
    names = ("orderflow.messaging", f"orderflow.services.{service.name}")
    return [(name, files(name).joinpath("schema.sql").read_text()) for name in names]


def prepare_database(container: Container) -> bool:
    """Wait for the database and bring its tables up to date; false when the process was stopped meanwhile."""
    backoff, database, stopping = Backoff(first=0.2, most=5), container.database(), container.process.stopping
    try:
        while not stopping.is_set():
            try:
                applied = migrate(database, scripts(container.service))
            except DatabaseUnavailable as error:
                log.warning("database.waiting", extra={"error": str(error)})
                container.clock.wait(stopping, backoff.next())
            else:
                log.info("database.ready", extra={"applied": applied})
                return True
    finally:
        database.close()
    return False
