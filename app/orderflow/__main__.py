# SPDX-License-Identifier: Apache-2.0
"""The command line: ``orderflow <command>``. A command's module is imported when the command is run."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from orderflow.messaging.errors import SettingsError
from orderflow.version import VERSION

EXIT_SETTINGS = 2
COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("run one process of a service", "orderflow.bootstrap.serve"),
    "reconciler": ("run the process that checks the promises periodically", "orderflow.bootstrap.reconciler"),
    "migrate": ("apply or list the pending migrations of the databases", "orderflow.operations.migrate"),
    "topology": (
        "render, apply or compare the broker's topology, or change a queue's partitions",
        "orderflow.operations.topology.command",
    ),
    "dead-letters": ("list, inspect, replay or discard dead letters", "orderflow.operations.dead_letters.command"),
    "notifications": ("list or resend notifications that failed", "orderflow.operations.failed_work.notifications"),
    "outbox": ("list events that the broker refused, retry or discard them", "orderflow.operations.failed_work.outbox"),
    "refunds": ("list refunds that failed, retry or settle them", "orderflow.operations.failed_work.refunds"),
    "reconcile": ("check the promises once", "orderflow.operations.reconciler.command"),
    "api-key": ("make an API key", "orderflow.http.api_key_command"),
    "payment-simulator": (
        "run a payment provider for tests and demonstrations",
        "orderflow.payment_simulator.command",
    ),
    "reference": ("write or check the generated reference", "orderflow.reference"),
}
"""Each command with its meaning and its module, which has ``arguments(parser)`` and ``main(options, environ)``."""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; its exit code: 0 when it succeeded, 2 when arguments or settings are wrong."""
    words = sys.argv[1:] if argv is None else argv
    options = _parser(next((word for word in words if not word.startswith("-")), "")).parse_args(words)
    try:
        code: int = options.main(options, environ)
    except SettingsError as error:
        sys.stderr.writelines(f"{problem}\n" for problem in error.problems)
        return EXIT_SETTINGS
    return code


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser of all commands; only the chosen one has its options."""
    parser = argparse.ArgumentParser(
        prog="orderflow",
        description="Observable and verifiable order processing on RabbitMQ.",
        epilog="Settings are environment variables that begin with ORDERFLOW_; docs/reference/settings.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"orderflow {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    for name, (meaning, module) in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
        if name == chosen:
            program = import_module(module)
            program.arguments(command)
            command.set_defaults(main=program.main)
    return parser


if __name__ == "__main__":
    sys.exit(main())
