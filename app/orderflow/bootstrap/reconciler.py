# SPDX-License-Identifier: Apache-2.0
"""Runs the reconciler's process."""

import argparse
from collections.abc import Mapping

from orderflow.bootstrap.process import EXIT_FAILED, Process
from orderflow.bootstrap.telemetry import start_telemetry
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.watchdog import Watchdog
from orderflow.operations.management_api import Management
from orderflow.operations.reconciler.reconciler import (
    LONGEST_LOOK_SECONDS,
    LOOK_STATEMENT_SECONDS,
    NEEDS,
    Reconciler,
    databases,
)
from orderflow.operations.topology.unread import UnreadQueues
from orderflow.settings import Settings


def arguments(_parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def main(_options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Check every promise against the databases periodically until stopped; the exit code."""
    settings = Settings.from_env(environ, NEEDS)
    telemetry = start_telemetry(settings, "reconciler", environ)  # no area: its metrics appear with the first result
    if telemetry is None:
        return EXIT_FAILED
    clock, opened = SystemClock(), databases(settings, statement_timeout_seconds=LOOK_STATEMENT_SECONDS)
    process = Process("reconciler", clock=clock, drain_timeout_seconds=settings.drain_timeout_seconds)
    process.catch_signals()
    reconciler = Reconciler(
        opened,
        instrumentation=telemetry.instrumentation,
        clock=clock,
        interval_seconds=settings.reconciler_interval_seconds,
    )
    process.add(reconciler.loop())
    if settings.reconciler_management_url:
        process.add(_unread_queues(settings, telemetry.instrumentation, clock))
    limit = settings.watchdog_seconds + LONGEST_LOOK_SECONDS
    watchdog = Watchdog(process.idle_seconds, limit_seconds=limit, clock=clock)
    process.add(watchdog)

    def not_ready() -> list[str]:
        reasons = [f"no database of {name}" for name, database in opened.items() if database.failing]
        if process.stopping.is_set():
            reasons.append("stopping")
        return reasons if reconciler.has_run else [*reasons, "no result yet"]

    telemetry.watch(idle_seconds=process.idle_seconds, stalled=watchdog.stalled, not_ready=not_ready)
    try:
        return process.run()
    finally:
        telemetry.shutdown(timeout_seconds=5)


def _unread_queues(settings: Settings, instrumentation: Instrumentation, clock: Clock) -> Periodic:
    """The loop that asks the broker for queues that nobody reads."""
    management = Management(settings.reconciler_management_url)
    queues = UnreadQueues(management, settings.reconciler_vhost, instrumentation=instrumentation, clock=clock)
    return queues.loop(settings.reconciler_interval_seconds)
