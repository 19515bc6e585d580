# SPDX-License-Identifier: Apache-2.0
"""Runs one process of a service: settings, telemetry, database, loops, shutdown."""

import argparse
import logging
from collections.abc import Mapping
from importlib import import_module

from orderflow.bootstrap.container import Container
from orderflow.bootstrap.prepare_database import prepare_database
from orderflow.bootstrap.process import EXIT_FAILED
from orderflow.bootstrap.telemetry import start_telemetry
from orderflow.broker_topology import work_queues
from orderflow.broker_users import broker_users
from orderflow.messaging.service import Service
from orderflow.messaging.watchdog import Watchdog
from orderflow.partition_counts import PartitionCounts
from orderflow.runtime import ProcessDeclaration
from orderflow.services import SERVICES
from orderflow.settings import Settings

log = logging.getLogger(__name__)

MEANINGS: Mapping[str, str] = {name: text for service in SERVICES for name, text in service.processes.items()}
"""Every process of every service, and what it does."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "processes:\n" + "\n".join(f"  {name:15} {meaning}" for name, meaning in MEANINGS.items())
    parser.add_argument("process", choices=list(MEANINGS), metavar="process", help="one of the processes below")


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run one process until it is stopped; its exit code. Raises SettingsError before anything is started."""
    name: str = options.process
    service, declaration = find_process(name)
    settings = Settings.from_env(environ, declaration.needs)
    users = broker_users(settings, service.name, SERVICES)
    consumes = "consuming" in declaration.areas
    partitions = PartitionCounts(settings.partitions, SERVICES)
    consumed = [each for queue in service.queues for each in partitions.consumed(queue)] if consumes else []
    queues = [work for queue in consumed for work in work_queues(queue)]
    telemetry = start_telemetry(settings, name, environ, areas=declaration.areas, queues=queues)
    if telemetry is None:
        return EXIT_FAILED
    container = Container(name, service, settings, telemetry, users)
    log.info("process.settings", extra={"settings": settings.masked()})
    try:
        return _run(container, declaration)
    finally:
        telemetry.shutdown(timeout_seconds=5)


def find_process(name: str) -> tuple[Service, ProcessDeclaration]:
    """The service that has this process, and the process; imports only the ``process`` module of that service."""
    service = next(service for service in SERVICES if name in service.processes)
    module = import_module(f"orderflow.services.{service.name}.process")
    declaration: ProcessDeclaration = module.PROCESSES[name]
    return service, declaration


def _run(container: Container, declaration: ProcessDeclaration) -> int:
    process, settings = container.process, container.settings
    process.catch_signals()
    container.start()
    watchdog = Watchdog(
        lambda: _idle_seconds(container), limit_seconds=settings.watchdog_seconds, clock=container.clock
    )
    try:
        if not prepare_database(container):
            return 0
        try:
            declaration.build(container)
        except OSError as error:
            log.error("http.port_taken", extra={"port": settings.http_port, "error": str(error)})
            return EXIT_FAILED
        process.add(container.lease_sweeper())
        process.add(watchdog)
        container.telemetry.watch(
            idle_seconds=process.idle_seconds, stalled=watchdog.stalled, not_ready=lambda: _not_ready(container)
        )
        return process.run()
    finally:
        container.close()


def _idle_seconds(container: Container) -> dict[str, float]:
    """Seconds since the last progress of each loop and of the broker's I/O thread, on which the loops depend."""
    idle = container.process.idle_seconds()
    return {**idle, "broker": container.clock.monotonic() - container.broker.last_tick}


def _not_ready(container: Container) -> list[str]:
    """Why no work should be sent to this process now."""
    reasons = []
    if container.process.stopping.is_set():
        reasons.append("stopping")
    if not container.broker.ready:
        reasons.append("no broker")
    if container.broker.suspended:
        reasons.append("consumers suspended")
    if container.database_failing():
        reasons.append("no database")
    return reasons
