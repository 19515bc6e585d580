# SPDX-License-Identifier: Apache-2.0
"""``orderflow topology``: prints the definitions, applies or compares them, or changes the partitions of a queue."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orderflow.broker_topology import definitions
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.messaging.service import Service
from orderflow.operations.management_api import Management, ManagementRefused
from orderflow.operations.topology.apply import apply, diff, exported
from orderflow.operations.topology.diff import Difference
from orderflow.operations.topology.partition_change import PartitionChange
from orderflow.operations.topology.partition_parts import PartitionParts
from orderflow.operations.topology.partition_state import as_on_broker, other_counts
from orderflow.operations.topology.unread import unread
from orderflow.partition_counts import PartitionCounts
from orderflow.services import SERVICES
from orderflow.setting_values import MAX_PARTITIONS
from orderflow.settings import Need, Settings
from orderflow.telemetry.logging import configure

SAME, DIFFERENT, FAILED = 0, 1, 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions and options to its parser."""
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    render = actions.add_parser("render", help="print the definitions")
    applying = actions.add_parser("apply", help="apply the definitions to the broker")
    comparing = actions.add_parser("diff", help="compare the broker with them, and find queues that nobody reads")
    partitions = actions.add_parser(
        "partitions",
        help="change the number of partitions of a queue while the system runs",
        description="Changes the number of partitions of a queue. No message is lost, and the events of an order"
        " stay in their order. Safe to repeat: it continues where it was stopped."
        " Exit code 0: done, 1: something is left to do, 2: refused or failed.",
    )
    for action in (render, applying, comparing, partitions):
        action.add_argument("--vhost", default="orderflow", help="the vhost (default: %(default)s)")
        action.add_argument(
            "--user-prefix", default="", help="prefix of each user's name, for several installations on one broker"
        )
        action.add_argument(
            "--wait", type=float, default=60, help="seconds to wait for the broker (default: %(default)s)"
        )
    for action in (render, applying, comparing):
        action.add_argument("--passwords", type=Path, help="JSON file with the password of each broker user")
    applying.add_argument(
        "--prune", action="store_true", help="also delete what is not in the definitions, but lose no message"
    )
    partitions.add_argument("queue", help="the queue as its service declares it, for example order_updates")
    partitions.add_argument("count", type=_count, help="the number of partitions that it is to have")
    partitions.add_argument("--dry-run", action="store_true", help="only print what would be done")
    partitions.add_argument(
        "--drain", type=float, default=600, help="seconds to wait for the old partitions (default: %(default)s)"
    )


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command with the settings in ``environ``; logs go to standard error."""
    needs: frozenset[Need] = frozenset() if options.action == "render" else frozenset({"management"})
    settings = Settings.from_env(environ, needs)
    configure("topology", level=settings.log_level, stream=sys.stderr)
    return run(options, settings)


def run(options: argparse.Namespace, settings: Settings, *, clock: Clock | None = None) -> int:
    """Run the action; the exit code: 0 the broker matches, 1 the broker differs, 2 the action failed."""
    clock = clock or SystemClock()
    try:
        wanted = PartitionCounts(settings.partitions, SERVICES).wanted(SERVICES)
        if options.action == "render":
            document = definitions(
                wanted, vhost=options.vhost, passwords=_passwords(options.passwords), user_prefix=options.user_prefix
            )
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")
            return SAME
        management = Management(settings.management_url)
        management.wait(options.wait, clock=clock)
        if options.action == "partitions":
            return _change(management, options, wanted, clock)
        return _match(management, options, wanted, clock)
    except (ValueError, OSError, BrokerUnavailable, ManagementRefused) as error:
        sys.stderr.write(f"topology {options.action}: {error}\n")
        return FAILED


def _match(management: Management, options: argparse.Namespace, wanted: Sequence[Service], clock: Clock) -> int:
    """Apply or compare the document. Each queue keeps the number of partitions that it has on the broker."""
    passwords = _passwords(options.passwords)
    services = as_on_broker(wanted, exported(management), options.vhost, options.user_prefix)
    document = definitions(services, vhost=options.vhost, passwords=passwords, user_prefix=options.user_prefix)
    counts = other_counts(services, wanted)
    if options.action == "diff":
        return _print([*diff(management, document), *counts, *unread(management, options.vhost)])
    applied = apply(management, document, prune=options.prune, clock=clock)
    for difference in applied.done:
        sys.stdout.write(f"done: {difference}\n")
    _print([*applied.left, *counts])
    return SAME if applied.complete and not counts else DIFFERENT


def _change(management: Management, options: argparse.Namespace, wanted: Sequence[Service], clock: Clock) -> int:
    """Change the number of partitions of a queue; prints each step and what is left."""
    names = [queue.name for service in wanted for queue in service.queues]
    if options.queue not in names:
        raise ValueError(f"there is no queue {options.queue}; the queues are {', '.join(names)}")
    actual = exported(management)
    services = as_on_broker(wanted, actual, options.vhost, options.user_prefix, but=options.queue)
    parts = PartitionParts(
        services, vhost=options.vhost, prefix=options.user_prefix, name=options.queue, count=options.count
    )

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    change = PartitionChange(management, parts, vhost=options.vhost, clock=clock, say=say, drain_seconds=options.drain)
    left = change.steps() if options.dry_run else change.run()
    for line in left:
        say(f"{'to do' if options.dry_run else 'left'}: {line}")
    if not left:
        say(f"{options.queue} has {options.count} partitions, and nothing is left to do")
    return DIFFERENT if left else SAME


def _print(differences: Sequence[Difference]) -> int:
    for difference in differences:
        immutable = difference.verdict == "changed" and not difference.importable
        sys.stdout.write(f"{difference}{' (an import cannot change this)' if immutable else ''}\n")
    if not differences:
        sys.stdout.write("the broker matches the definitions\n")
    return DIFFERENT if differences else SAME


def _passwords(path: Path | None) -> Mapping[str, str] | None:
    """The passwords in a file; raises ValueError when it is not an object of strings."""
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON object of user and password: {error}") from None


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PARTITIONS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_PARTITIONS}")
    return int(text)
