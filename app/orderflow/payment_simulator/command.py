# SPDX-License-Identifier: Apache-2.0
"""``orderflow payment-simulator``: serves the simulator until SIGTERM or SIGINT."""

import argparse
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from orderflow.http.server import HttpServer
from orderflow.messaging.clock import SystemClock
from orderflow.payment_simulator.app import SimulatorApplication
from orderflow.payment_simulator.ledger import Ledger
from orderflow.payment_simulator.provider import SimulatedProvider

EXIT_FAILED = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="port to listen on (default: %(default)s)")
    parser.add_argument("--ledger", type=Path, help="file that stores charges and refunds across restarts")


def main(options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Serve until a signal; the exit code. When it stops, open requests are dropped after a second."""
    with closing(Ledger(options.ledger)) as ledger:
        application = SimulatorApplication(SimulatedProvider(ledger))
        try:
            server = HttpServer(application, options.host, options.port, clock=SystemClock(), drain_seconds=1)
        except OSError as error:
            sys.stderr.write(f"--host {options.host} --port {options.port}: {error}\n")
            return EXIT_FAILED
        with suppress(KeyboardInterrupt):
            server.run()
    return 0
