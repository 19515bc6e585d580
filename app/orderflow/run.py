# SPDX-License-Identifier: Apache-2.0
"""The life of a process, from its first setting to its last confirm."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from orderflow.kinds import KINDS, Kind
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.watchdog import Watchdog
from orderflow.operations import reconciler
from orderflow.parts import Parts, prepare_database
from orderflow.process import EXIT_FAILED, Process
from orderflow.settings import Settings
from orderflow.telemetry.start import Telemetry
from orderflow.topology import work_queues

log = logging.getLogger(__name__)


def serve(name: str, environ: Mapping[str, str]) -> int:
    """Run one process until it is told to stop; its exit code. Raises SettingsError before anything is started."""
    kind = KINDS[name]
    settings = Settings.from_env(environ, kind.needs)
    queues = [work for queue in kind.service.queues for work in work_queues(queue)] if kind.consumes else []
    telemetry = _telemetry(settings, name, environ, areas=kind.areas, queues=queues)
    if telemetry is None:
        return EXIT_FAILED
    parts = Parts(name, kind.service, settings, telemetry)
    log.info("process.settings", extra={"settings": settings.masked()})
    try:
        return _run(parts, kind)
    finally:
        telemetry.shutdown(timeout_seconds=5)


def reconcile(environ: Mapping[str, str]) -> int:
    """Run the process that recomputes every promise from the databases, again and again; its exit code."""
    settings = Settings.from_env(environ, reconciler.NEEDS)
    telemetry = _telemetry(settings, "reconciler", environ)  # no area: a promise does not hold before somebody looked
    if telemetry is None:
        return EXIT_FAILED
    clock, databases = SystemClock(), reconciler.databases(settings)
    process = Process("reconciler", clock=clock, drain_timeout_seconds=settings.drain_timeout_seconds)
    process.catch_signals()
    watching = reconciler.Reconciler(databases, moments=telemetry.moments, clock=clock)
    process.add(watching.loop(settings.reconciler_interval_seconds))
    limit = settings.watchdog_seconds + reconciler.LONGEST_LOOK_SECONDS
    watchdog = Watchdog(process.idle_seconds, limit_seconds=limit, clock=clock)
    process.add(watchdog)

    def not_ready() -> list[str]:
        reasons = [f"no database of {name}" for name, database in databases.items() if database.failing]
        if process.stopping.is_set():
            reasons.append("stopping")
        return reasons if watching.looked else [*reasons, "no look yet"]

    telemetry.watch(idle_seconds=process.idle_seconds, stalled=watchdog.stalled, not_ready=not_ready)
    try:
        return process.run()
    finally:
        telemetry.shutdown(timeout_seconds=5)


def _telemetry(settings: Settings, name: str, environ: Mapping[str, str], **does: Any) -> Telemetry | None:
    """The telemetry of the process; None, and a line that says why, when its port is taken."""
    try:
        return Telemetry.start(settings, name, environ, **does)
    except OSError as error:
        sys.stderr.write(f"ORDERFLOW_TELEMETRY_PORT={settings.telemetry_port}: {error}\n")
        return None


def _run(parts: Parts, kind: Kind) -> int:
    process, settings = parts.process, parts.settings
    process.catch_signals()
    parts.broker.start()
    watchdog = Watchdog(lambda: _idle_seconds(parts), limit_seconds=settings.watchdog_seconds, clock=parts.clock)
    try:
        if not prepare_database(parts):
            return 0
        try:
            kind.build(parts)
        except OSError as error:
            log.error("http.port_taken", extra={"port": settings.http_port, "error": str(error)})
            return EXIT_FAILED
        process.add(watchdog)
        parts.telemetry.watch(
            idle_seconds=process.idle_seconds, stalled=watchdog.stalled, not_ready=lambda: _not_ready(parts)
        )
        return process.run()
    finally:
        parts.close()


def _idle_seconds(parts: Parts) -> dict[str, float]:
    """Seconds since each loop, and the broker's I/O thread, was last seen moving: without it nothing else works."""
    return {**parts.process.idle_seconds(), "broker": parts.clock.monotonic() - parts.broker.last_tick}


def _not_ready(parts: Parts) -> list[str]:
    """Why no work should be sent to this process now."""
    reasons = []
    if parts.process.stopping.is_set():
        reasons.append("stopping")
    if not parts.broker.ready:
        reasons.append("no broker")
    if parts.database_failing():
        reasons.append("no database")
    return reasons
