# SPDX-License-Identifier: Apache-2.0
"""``make bench``: the start of each process, the consumer core beside others, the whole pipeline, and years of data.

The core does the same job with the same guarantees as FastStream and two Go programs, in turns, on the same broker and
database. The pipeline shows the CPU per order by process, also of another commit. Compare figures within one run only.
"""

import argparse
import os
import sys
import time
from contextlib import ExitStack

from local.interrupts import stop_on_terminate
from local.servers.roots import ServersUnavailable
from local.servers.stack import Stack
from local.supervisor.supervisor import ProcessFailed
from tests.bench import pipeline, years
from tests.bench.consumers import compare
from tests.bench.startup import startup
from tests.resilience.builds import OURS, UnknownCommit, checked_out
from tests.resilience.table import table

CANNOT_RUN = 2


def main() -> int:
    """Measure what the options ask for, on servers of our own; 2 when that is not possible here."""
    options = _options()
    stop_on_terminate()
    try:
        with Stack.start(suite=options.suite, report=_report) as stack:
            if options.only in {None, "startup"}:
                startup(stack)
            if options.only in {None, "core"}:
                compare(stack, options.rounds, options.messages)
            if options.only in {None, "pipeline"}:
                _pipeline(options, stack)
            if options.only in {None, "years"}:
                _years(options, stack)
    except (ServersUnavailable, ProcessFailed, UnknownCommit) as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    return 0


def _pipeline(options: argparse.Namespace, stack: Stack) -> None:
    if not stack.supervisor.pids():
        _report("broker and database are given by URL: their CPU is not counted")
    with ExitStack() as closing:
        builds = [OURS, *([closing.enter_context(checked_out(options.base))] if options.base else [])]
        found = pipeline.measure(builds, stack, rates=options.rates, seconds=options.seconds, report=_report)
    columns = [pipeline.figures(measured) for measured in found]
    print(*table([build.name for build in builds], columns), sep="\n", flush=True)


def _years(options: argparse.Namespace, stack: Stack) -> None:
    found = years.years(
        stack,
        orders=options.orders,
        rates=options.rates,
        seconds=options.seconds,
        rounds=options.rounds,
        report=_report,
    )
    print(*table(["years", "empty"], [years.figures(measured) for measured in found]), sep="\n", flush=True)


def _report(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default=os.environ.get("SERVERS", "trixie"), help="Debian suite of the servers")
    parser.add_argument("--only", choices=("core", "pipeline", "startup", "years"), help="measure only this")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="rounds of the core and of the years (default 3); with 0 the years are without the pipeline",
    )
    parser.add_argument(
        "--messages", type=int, default=20_000, help="messages a round (default 20000); a fifth for slow consumers"
    )
    parser.add_argument(
        "--orders", type=int, default=200_000, help="old orders of the years (default 200000; about 5 kB of disk each)"
    )
    parser.add_argument("--base", metavar="COMMIT", default="", help="measure the pipeline of this commit too")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[100, 200], help="orders a second offered (default 100 200)"
    )
    parser.add_argument("--seconds", type=float, default=15, help="length of each step of the pipeline (default 15)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
