# SPDX-License-Identifier: Apache-2.0
"""What the commands for failed work have in common: selection, tables, JSON, an audit line, exit codes."""

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from orderflow.events import EXCHANGE, decode
from orderflow.messaging.broker import Publication, Receipt
from orderflow.messaging.codec import Codec
from orderflow.messaging.errors import MessagingError
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.publisher_check import PublisherCheck
from orderflow.messaging.service import UnitOfWork
from orderflow.operations.dead_letters import view
from orderflow.operations.dead_letters.command import whoami
from orderflow.settings import Settings
from orderflow.telemetry.logging import configure

log = logging.getLogger(__name__)

DONE, NOT_ALL, FAILED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows an action is for: those with these ids, or every one when there are none; also by reason."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    limit: int = 1000


Find = Callable[[UnitOfWork, Selection], Sequence[tuple[Any, ...]]]
"""The selected rows, oldest first, locked; the first column is the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that can be done with selected rows; ``done`` is its participle. ``final`` requires --yes."""

    meaning: str
    done: str
    apply: Callable[[UnitOfWork, Sequence[str]], object]
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedWork:
    """One kind of failed work. ``service`` is the application id of the events that its actions publish."""

    command: str
    columns: tuple[str, ...]
    find: Find
    actions: Mapping[str, Action]
    service: str = ""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's actions and options to its parser."""
        parser.epilog = "ORDERFLOW_DATABASE_URL is the database of the service, as for its processes."
        verbs = parser.add_subparsers(dest="action", required=True)
        _add_selection(
            verbs.add_parser("list", help="show what failed, oldest first, with the reasons"), self.columns[0]
        )
        for verb, action in self.actions.items():
            options = verbs.add_parser(verb, help=action.meaning)
            _add_selection(options, self.columns[0])
            options.add_argument("--all", action="store_true", help="select all; required when nothing else selects")
            options.add_argument("--operator", default=None, help="your name for the audit log")
            if action.final:
                options.add_argument("--yes", action="store_true", help="confirm; it cannot be undone")

    def main(self, options: argparse.Namespace, environ: Mapping[str, str]) -> int:
        """Run the command with the settings in ``environ``. Logs go to standard error."""
        settings = Settings.from_env(environ, frozenset({"database"}))
        configure(self.command, level=settings.log_level, stream=sys.stderr)
        return self.run(options, settings, view.terminal())

    def run(self, options: argparse.Namespace, settings: Settings, console: Console) -> int:
        """Run the action; the exit code: 0 done, 1 an id was not found or more are selected, 2 it failed."""
        action = self.actions.get(options.action)
        selection = Selection(tuple(options.ids), options.reason, options.limit)
        if problem := _problem(options, action):
            sys.stderr.write(f"{self.command} {options.action}: {problem}\n")
            return FAILED
        units_of_work = _units_of_work(settings, self.service)
        try:
            with units_of_work.transaction() as work:
                rows = self.find(work, selection)
                if action is not None and rows:
                    action.apply(work, [str(row[0]) for row in rows])
        except MessagingError as error:
            sys.stderr.write(f"{self.command} {options.action}: {error}\n")
            return FAILED
        finally:
            units_of_work.close()
        if action is not None:
            self._audit(options, action, rows)
        self._show(console, rows, as_json=options.json, heading=action.done if action else "found")
        return self._missing(selection, rows)

    def _audit(self, options: argparse.Namespace, action: Action, rows: Sequence[tuple[Any, ...]]) -> None:
        """One line for each row, after the commit."""
        operator = options.operator or whoami()
        for row in rows:
            log.info(f"{self.command}.{action.done}", extra={"id": str(row[0]), "operator": operator})

    def _show(self, console: Console, rows: Sequence[tuple[Any, ...]], *, as_json: bool, heading: str) -> None:
        if as_json:
            named = [dict(zip((name.replace(" ", "_") for name in self.columns), row, strict=True)) for row in rows]
            console.out(view.as_json({heading: named}), highlight=False)
            return
        table = Table(box=None, pad_edge=False)
        for name in self.columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*map(view.plain, row))
        if rows:
            console.print(table)
        console.print(f"{len(rows)} {heading}", style="dim")

    def _missing(self, selection: Selection, rows: Sequence[tuple[Any, ...]]) -> int:
        missing = set(selection.ids) - {str(row[0]) for row in rows}
        for name in sorted(missing):
            sys.stderr.write(f"there is no failed {name}\n")
        if len(rows) >= selection.limit:
            sys.stderr.write(f"{selection.limit} is the limit, there may be more: run the command again\n")
        return NOT_ALL if missing or len(rows) >= selection.limit else DONE


class _Unconnected:
    """A publisher without room: the event stays in the outbox, and the service's relay publishes it."""

    room = 0

    def publish(self, publications: Sequence[Publication]) -> Receipt:
        raise NotImplementedError


def _units_of_work(settings: Settings, service: str) -> UnitOfWorkFactory:
    codec = Codec(
        app_id=service,
        exchange=EXCHANGE,
        decode=decode,
        compression=settings.compression,
        threshold_bytes=settings.compression_threshold_bytes,
        limit_bytes=settings.max_message_bytes,
        publishers=PublisherCheck(),
    )
    database = Database(settings.database_url, application_name="orderflow operator")
    return UnitOfWorkFactory(database, Outbox(_Unconnected(), codec, lease_seconds=0))


def _problem(options: argparse.Namespace, action: Action | None) -> str:
    """Why the command must not run with these options, or an empty text."""
    if action is None:
        return ""
    if not (options.ids or options.reason or options.all):
        return "nothing is selected; --all selects all of them"
    if action.final and not options.yes:
        return "it cannot be undone; confirm with --yes"
    return ""


def _add_selection(parser: argparse.ArgumentParser, id_name: str) -> None:
    parser.add_argument("ids", nargs="*", default=[], metavar=id_name.replace(" ", "-"))
    parser.add_argument("--reason", help="failed for this reason")
    parser.add_argument("--limit", type=_limit, default=1000, help="maximum number of rows (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _limit(text: str) -> int:
    if not 0 < (limit := int(text)) <= 10_000:
        raise argparse.ArgumentTypeError("must be from 1 to 10000")
    return limit
