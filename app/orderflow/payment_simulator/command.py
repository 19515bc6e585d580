# SPDX-License-Identifier: Apache-2.0
"""``orderflow payment-simulator``: runs the simulator until it is told to stop."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from orderflow.payment_simulator.app import run


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="port to listen on (default: %(default)s)")
    parser.add_argument("--ledger", type=Path, help="file that keeps what was executed, over restarts")


def main(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Serve until told to stop."""
    run(options.host, options.port, options.ledger)
    return 0
