# SPDX-License-Identifier: Apache-2.0
"""``orderflow topology``: prints the definitions document, applies it to a broker, or shows the differences."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orderflow.broker_topology import definitions
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.management_api import Management, ManagementRefused
from orderflow.operations.topology import prune as deletions
from orderflow.operations.topology.diff import Difference, compare
from orderflow.operations.topology.unread import unread
from orderflow.rabbitmq_definitions import Definitions
from orderflow.services import SERVICES
from orderflow.settings import Need, Settings
from orderflow.telemetry.logging import configure

log = logging.getLogger(__name__)

SAME, DIFFERENT, FAILED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The differences that ``apply`` removed, and those that are left."""

    done: Sequence[Difference]
    left: Sequence[Difference]

    @property
    def complete(self) -> bool:
        """True when the broker has everything that it should have; it may have more."""
        return all(difference.verdict == "extra" for difference in self.left)


def diff(management: Management, wanted: Definitions) -> list[Difference]:
    """Where the broker differs from the document; raises BrokerUnavailable or ManagementRefused."""
    return compare(wanted, _actual(management))


def apply(management: Management, wanted: Definitions, *, prune: bool = False, clock: Clock | None = None) -> Applied:
    """Make the broker match the document; applying it again changes nothing.

    Creates and changes objects. Deletes objects only with ``prune``, and then loses no message (see ``prune``). Users
    without a password in the document stay unchanged. Raises BrokerUnavailable or ManagementRefused.
    """
    actual = _actual(management)
    before = compare(wanted, actual)
    if any(difference.importable for difference in before):
        management.post("definitions", body=msgspec.json.encode(_importable(wanted, actual, before)))
    if prune:
        extra = [difference for difference in before if difference.verdict == "extra"]
        deletions.prune(management, wanted.vhosts[0].name, extra, clock or SystemClock())
    left = diff(management, wanted)
    done = [difference for difference in before if difference not in left]
    for difference in done:
        log.info("topology.applied", extra={"change": str(difference)})
    return Applied(done=done, left=left)


def _actual(management: Management) -> Definitions:
    return msgspec.json.decode(management.get("definitions"), type=Definitions)


def _importable(wanted: Definitions, actual: Definitions, differences: Sequence[Difference]) -> Definitions:
    """The document without unchanged users, and without permissions of absent users, which the broker would refuse."""
    touched = {found.key[0] for found in differences if found.kind == "user"}
    users = [user for user in wanted.users if user.password and user.name in touched]
    present = {user.name for user in (*actual.users, *users)}
    return msgspec.structs.replace(
        wanted,
        users=users,
        permissions=[entry for entry in wanted.permissions if entry.user in present],
        topic_permissions=[entry for entry in wanted.topic_permissions if entry.user in present],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions and options to its parser."""
    parser.add_argument(
        "action",
        choices=("render", "apply", "diff"),
        help="print the definitions, apply them, or compare them with the broker and find queues that nobody reads",
    )
    parser.add_argument("--vhost", default="orderflow", help="the vhost (default: %(default)s)")
    parser.add_argument("--passwords", type=Path, help="JSON file with the password of each broker user")
    parser.add_argument(
        "--user-prefix", default="", help="prefix of each user's name, for several installations on one broker"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="apply: delete what is not in the definitions, but lose no message",
    )
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for the broker (default: %(default)s)")


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command with the settings in ``environ``; logs go to standard error."""
    needs: frozenset[Need] = frozenset() if options.action == "render" else frozenset({"management"})
    settings = Settings.from_env(environ, needs)
    configure("topology", level=settings.log_level, stream=sys.stderr)
    return run(options, settings)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the action; the exit code: 0 the broker matches, 1 the broker differs, 2 the action failed."""
    try:
        wanted = definitions(
            SERVICES, vhost=options.vhost, passwords=_passwords(options.passwords), user_prefix=options.user_prefix
        )
        if options.action == "render":
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(wanted)).decode() + "\n")
            return SAME
        management = Management(settings.management_url)
        management.wait(options.wait)
        if options.action == "diff":
            return _print([*diff(management, wanted), *unread(management, options.vhost)])
        applied = apply(management, wanted, prune=options.prune)
    except (ValueError, OSError, BrokerUnavailable, ManagementRefused) as error:
        sys.stderr.write(f"topology {options.action}: {error}\n")
        return FAILED
    for difference in applied.done:
        sys.stdout.write(f"done: {difference}\n")
    _print(applied.left)
    return SAME if applied.complete else DIFFERENT


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
