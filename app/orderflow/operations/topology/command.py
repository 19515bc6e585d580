# SPDX-License-Identifier: Apache-2.0
"""``orderflow topology``: prints the definitions document, applies it to a broker, or shows the differences."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orderflow.broker_topology import definitions
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.management_api import Management, ManagementRefused
from orderflow.operations.topology.apply import apply, diff
from orderflow.operations.topology.diff import Difference
from orderflow.operations.topology.unread import unread
from orderflow.services import SERVICES
from orderflow.settings import Need, Settings
from orderflow.telemetry.logging import configure

SAME, DIFFERENT, FAILED = 0, 1, 2


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
