# SPDX-License-Identifier: Apache-2.0
"""The command line: ``orderflow <command>``. Only here the process's environment is taken up."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from orderflow import reference, run
from orderflow.http.keys import SCOPES, make_key
from orderflow.kinds import KINDS
from orderflow.messaging.errors import SettingsError
from orderflow.operations import dead_letters_command, payment_simulator, reconciler, topology
from orderflow.services import SERVICES
from orderflow.version import version

EXIT_SETTINGS = 2
Arguments = Callable[[argparse.ArgumentParser], None]
Main = Callable[[argparse.Namespace, Mapping[str, str]], int]


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; its exit code: 0 when it did what it was asked, 2 when arguments or settings are wrong."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.main(options, environ)
    except SettingsError as error:
        sys.stderr.writelines(f"{problem}\n" for problem in error.problems)
        return EXIT_SETTINGS
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="orderflow",
        description="Message-driven order processing on RabbitMQ that can be seen and proven.",
        epilog="Settings are environment variables that begin with ORDERFLOW_; docs/reference/settings.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"orderflow {version()}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    for name, (meaning, arguments, entry) in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
        arguments(command)
        command.set_defaults(main=entry)
    return parser


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    meanings = {process: meaning for service in SERVICES for process, meaning in service.processes.items()}
    parser.epilog = "processes:\n" + "\n".join(f"  {name:15} {meaning}" for name, meaning in meanings.items())
    parser.add_argument("process", choices=list(KINDS), metavar="process", help="one of the processes below")


def _key_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="who gets the key; idempotency keys belong to this name")
    parser.add_argument("scopes", nargs="+", choices=sorted(SCOPES), help="what it allows")


def _make_key(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    try:
        key, entry = make_key(options.name, frozenset(options.scopes))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETTINGS
    sys.stdout.write(f"key, shown only now:        {key}\nadd to ORDERFLOW_API_KEYS:  {entry}\n")
    return 0


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """A command without options."""


COMMANDS: Mapping[str, tuple[str, Arguments, Main]] = {
    "serve": (
        "run one process of a service",
        _serve_arguments,
        lambda options, environ: run.serve(options.process, environ),
    ),
    "reconciler": (
        "run the process that checks the promises again and again",
        _nothing,
        lambda _, environ: run.reconcile(environ),
    ),
    "topology": ("render, apply or compare the broker's topology", topology.arguments, topology.main),
    "dead-letters": (
        "list, inspect, replay or discard dead letters",
        dead_letters_command.arguments,
        dead_letters_command.main,
    ),
    "reconcile": ("check the promises once", reconciler.arguments, reconciler.main),
    "api-key": ("make an API key", _key_arguments, _make_key),
    "payment-simulator": (
        "run a payment provider for tests and demonstrations",
        payment_simulator.arguments,
        payment_simulator.main,
    ),
    "reference": ("write or check the generated reference", reference.arguments, reference.main),
}
"""Command to its meaning, its arguments and what runs it."""


if __name__ == "__main__":
    sys.exit(main())
