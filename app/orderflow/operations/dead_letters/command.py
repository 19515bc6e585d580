# SPDX-License-Identifier: Apache-2.0
"""``orderflow dead-letters``: list, inspect, replay, discard."""

import argparse
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from functools import partial

from pika.adapters.blocking_connection import BlockingChannel
from rich.console import Console

from orderflow.broker_users import REPLAY, broker_users
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.dead_letters import view
from orderflow.operations.dead_letters.model import Selection
from orderflow.operations.dead_letters.queue import DeadLetterQueue, Publishing
from orderflow.services import SERVICES
from orderflow.settings import Settings
from orderflow.telemetry.logging import configure
from orderflow.telemetry.tracing.pika_channel import TracedChannel
from orderflow.telemetry.tracing.switch import command_provider

DONE, NOT_ALL, FAILED = 0, 1, 2

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions and options to its parser."""
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="show the selected dead letters, oldest first")
    inspect = actions.add_parser("inspect", help="show everything about dead letters, with personal fields masked")
    replay = actions.add_parser("replay", help="send dead letters back to the queue in which they failed")
    discard = actions.add_parser("discard", help="remove dead letters for ever")
    for action in (listing, inspect, replay, discard):
        _add_selection(action, ids="+" if action is inspect else "*")
        action.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for action in (replay, discard):
        action.add_argument("--all", action="store_true", help="select all; required when no other option selects")
        action.add_argument("--dry-run", action="store_true", help="only list the selected messages")
        action.add_argument("--operator", default=None, help="your name for the audit log (default: the account's)")
    replay.add_argument("--rate", type=_rate, default=50.0, help="messages per second (default: %(default)g)")
    discard.add_argument("--yes", action="store_true", help="confirm that the messages are removed for ever")


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command with the settings in ``environ``; traced when they enable tracing. Logs go to standard error."""
    settings = Settings.from_env(environ, frozenset({"amqp"}))
    configure("dead-letters", level=settings.log_level, stream=sys.stderr)
    with command_provider("dead-letters", environ) as provider:
        return run(options, settings, traced=partial(TracedChannel, provider=provider))


def run(
    options: argparse.Namespace,
    settings: Settings,
    *,
    traced: Callable[[BlockingChannel], Publishing] | None = None,
    console: Console | None = None,
    clock: Clock | None = None,
) -> int:
    """Run the action; the exit code: 0 done, 1 some messages were kept, left or not found, 2 the action failed.

    Raises SettingsError when a replay is requested with another user than the consumers trust.
    """
    clock = clock or SystemClock()
    console = console or view.terminal()
    if problem := _problem(options):
        sys.stderr.write(f"dead-letters {options.action}: {problem}\n")
        return FAILED
    users = broker_users(settings, REPLAY, SERVICES) if options.action == "replay" else None
    queue = DeadLetterQueue(settings.amqp_url, users=users, traced=traced, clock=clock)
    try:
        if options.action in {"list", "inspect"}:
            return _browse(options, queue, console, clock)
        return _settle(options, queue, console)
    except BrokerUnavailable as error:
        sys.stderr.write(f"dead-letters {options.action}: {error}\n")
        return FAILED


def _browse(options: argparse.Namespace, queue: DeadLetterQueue, console: Console, clock: Clock) -> int:
    found = queue.browse(_selection(options), limit=options.limit)
    missing = set(options.message_ids) - {letter.message_id for letter in found.letters}
    if options.json:
        shape = view.details if options.action == "inspect" else view.summary
        listed = {"total": found.total, "dead_letters": [shape(letter) for letter in found.letters]}
        console.out(view.as_json(listed), highlight=False)
    elif options.action == "list":
        view.show_list(console, found.letters, total=found.total, now=clock.now())
    else:
        for letter in found.letters:
            view.show_details(console, letter)
    for message_id in sorted(missing):
        sys.stderr.write(f"there is no dead letter {message_id}\n")
    return NOT_ALL if missing else DONE


def _settle(options: argparse.Namespace, queue: DeadLetterQueue, console: Console) -> int:
    operator = options.operator or whoami()
    selection = _selection(options)
    if options.action == "replay":
        settled = queue.replay(
            selection,
            limit=options.limit,
            operator=operator,
            per_second=options.rate,
            dry_run=options.dry_run,
        )
        verb = "would replay" if options.dry_run else "replayed"
    else:
        settled = queue.discard(selection, limit=options.limit, operator=operator, dry_run=options.dry_run)
        verb = "would discard" if options.dry_run else "discarded"
    if options.json:
        console.out(view.as_json(view.settled_json(settled, verb)), highlight=False)
    else:
        view.show_settled(console, settled, verb)
    missing = set(options.message_ids) - {letter.message_id for letter in settled.gone}
    return NOT_ALL if settled.kept or settled.left or missing else DONE


def whoami() -> str:
    """The account's name; its number in a container that has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _problem(options: argparse.Namespace) -> str:
    """Why the command must not run with these options, or an empty text."""
    if options.action in {"replay", "discard"} and _selection(options).everything and not options.all:
        return "no message is selected; --all selects all of them"
    if options.action == "discard" and not (options.yes or options.dry_run):
        return "discarding is final; confirm with --yes, or list the messages first with --dry-run"
    return ""


def _add_selection(parser: argparse.ArgumentParser, *, ids: str) -> None:
    parser.add_argument("message_ids", nargs=ids, default=[], metavar="message-id")
    parser.add_argument("--reason", help="dead-lettered for this reason, for example invalid_body or delivery_limit")
    parser.add_argument("--queue", help="failed in this queue")
    parser.add_argument("--event-type", help="of this type, for example ORDER_CREATED")
    parser.add_argument("--order-id", help="belonging to this order")
    parser.add_argument(
        "--older-than", type=_seconds, help="dead-lettered longer ago than this, for example 90s, 15m, 2h, 3d"
    )
    parser.add_argument("--limit", type=_limit, default=1000, help="maximum number of messages (default: %(default)s)")


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(
        message_ids=tuple(options.message_ids),
        reason=options.reason,
        queue=options.queue,
        event_type=options.event_type,
        order_id=options.order_id,
        older_than_seconds=options.older_than,
    )


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; use for example 90s, 15m, 2h or 3d") from None


def _rate(text: str) -> float:
    if not 0 < (rate := float(text)) <= 10_000:
        raise argparse.ArgumentTypeError("must be above 0 and at most 10000 per second")
    return rate


def _limit(text: str) -> int:
    if not 0 < (limit := int(text)) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000000")
    return limit
