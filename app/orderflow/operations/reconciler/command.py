# SPDX-License-Identifier: Apache-2.0
"""``orderflow reconcile``: checks the promises once, against everything in the databases."""

import argparse
import logging
import sys
from collections.abc import Mapping
from threading import Event

import msgspec
from rich.console import Console
from rich.table import Table

from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.integrity import Integrity
from orderflow.operations.reconciler.queries import GRACE_SECONDS, integrity
from orderflow.operations.reconciler.reconciler import COMPLETE_STATEMENT_SECONDS, NEEDS, databases
from orderflow.settings import Settings
from orderflow.telemetry.logging import configure

log = logging.getLogger(__name__)

KEPT, BROKEN, FAILED = 0, 1, 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON; the exit code is then 0 even when a promise is broken"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        help="seconds after the end of an order in which refund, sale, release and notification must have happened"
        " (default: %(default)g)",
    )
    parser.add_argument("--pause", type=float, default=2.0, help="seconds before the second run (default: %(default)g)")


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Compare once, and again after a finding; the exit code: 0 kept, 1 broken, 2 no database."""
    settings = Settings.from_env(environ, NEEDS)
    configure("reconcile", level=settings.log_level, stream=sys.stderr)
    opened = databases(settings, statement_timeout_seconds=COMPLETE_STATEMENT_SECONDS)
    try:
        found = compare(opened, pause_seconds=options.pause, grace_seconds=options.grace, clock=SystemClock())
    except DatabaseUnavailable as error:
        sys.stderr.write(f"reconcile: {error}\n")
        return FAILED
    finally:
        for database in opened.values():
            database.close()
    if options.json:
        sys.stdout.write(as_json(found) + "\n")
        return KEPT
    _show(found, Console(highlight=False, emoji=False))
    return KEPT if all(check.kept for check in found.checks()) else BROKEN


def compare(opened: Mapping[str, Database], *, pause_seconds: float, grace_seconds: float, clock: Clock) -> Integrity:
    """What two runs, with a pause between them, both found wrong."""
    first = integrity(opened, grace_seconds=grace_seconds)
    if not first.suspicious:
        return first
    clock.wait(Event(), pause_seconds)
    return integrity(opened, grace_seconds=grace_seconds).confirmed_by(first)


def as_json(found: Integrity) -> str:
    """Orders by status, and each promise with its numbers and whether it is kept."""
    statuses = dict.fromkeys(("accepted", "reserved", "confirmed", "rejected", "cancelled"), 0)
    result = {"orders": {**statuses, **found.orders, "total": found.total}, "checks": found.checks()}
    return msgspec.json.format(msgspec.json.encode(result)).decode()


def _show(found: Integrity, console: Console) -> None:
    table = Table("promise", "numbers", "kept", box=None)
    for check in found.checks():
        table.add_row(check.promise, check.numbers, "yes" if check.kept else "[bold red]NO[/bold red]")
    console.print(table)
    for check in found.checks():
        if check.examples:
            console.print(f"{check.promise}: {', '.join(check.examples)}", markup=False)
