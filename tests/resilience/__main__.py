# SPDX-License-Identifier: Apache-2.0
"""What the shop sells while it is overloaded and while parts of it fail, on real servers.

Each scenario has a system of its own. Arrivals do not wait for responses, and every order is sent once. One core is for
the load generator, so that it is not late; the system has the others. Numbers are comparable only within one run.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from local.interrupts import stop_on_terminate
from local.servers.roots import ServersUnavailable
from local.servers.stack import Stack
from local.supervisor.supervisor import ProcessFailed
from tests.resilience import bars
from tests.resilience.bars import Bar
from tests.resilience.builds import OURS, Build, UnknownCommit, checked_out
from tests.resilience.capacity import GeneratorTooSlow, measure
from tests.resilience.cores import leave_one_core
from tests.resilience.outcome import MAX_LATE_SECONDS, Outcome
from tests.resilience.plot import plot, seconds
from tests.resilience.run import run
from tests.resilience.scenarios import Scenario, names, scenarios
from tests.resilience.table import figures, table
from tests.resilience.times import LONG, SHORT, Times

MET, MISSED, CANNOT_RUN = 0, 1, 2
SHORT_CAPACITY = 80.0
"""Orders per second that any machine confirms; the short form measures no capacity."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios; 0 every bar is met, 1 one is missed, 2 cannot run here, or a run was not valid."""
    options = _options(arguments)
    times = SHORT if options.short else LONG
    stop_on_terminate()
    if not times.short:
        leave_one_core()
    # The servers are killed, so they are never those that are given by URL.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ORDERFLOW_") or name == "ORDERFLOW_CACHE"
    }
    try:
        with ExitStack() as closing:
            builds = [OURS, *([closing.enter_context(checked_out(options.base))] if options.base else [])]
            stack = closing.enter_context(Stack.start(suite=options.suite, environ=environ, report=_report))
            return _all(options, times, builds, stack)
    except (ServersUnavailable, ProcessFailed, UnknownCommit, GeneratorTooSlow) as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        return CANNOT_RUN


def _all(options: argparse.Namespace, times: Times, builds: Sequence[Build], stack: Stack) -> int:
    capacities = {build: _capacity(options, build, stack, times) for build in builds}
    codes = [MET]
    for scenario in _chosen(options, times):
        outcomes = [
            run(scenario, build, stack, times=times, capacity=capacities[build], report=_report) for build in builds
        ]
        _print(scenario, builds, outcomes)
        codes.append(verdict(outcomes[0], [*scenario.bars(outcomes[0]), *bars.promises(outcomes[0])]))
    return MISSED if MISSED in codes else max(codes)


def _capacity(options: argparse.Namespace, build: Build, stack: Stack, times: Times) -> float:
    if options.capacity or (times.short and "capacity" not in options.scenarios):
        return float(options.capacity or SHORT_CAPACITY)
    _report(f"capacity of {build.name}")
    capacity = measure(build, stack, times, _report)
    print(f"capacity of {build.name}: {capacity} confirmed", flush=True)
    return capacity.rate


def _chosen(options: argparse.Namespace, times: Times) -> Iterator[Scenario]:
    replicas: Iterable[int] = (options.replicas,) if options.replicas else (1, 2)
    for scenario in scenarios(times, replicas):
        if not options.scenarios or scenario.name in options.scenarios:
            yield scenario


def _print(scenario: Scenario, builds: Sequence[Build], outcomes: Sequence[Outcome]) -> None:
    replicas = f", {scenario.replicas} replicas of each process" if scenario.replicas > 1 else ""
    print(f"\n== {scenario.name}{replicas}: {scenario.meaning}")
    for build, outcome in zip(builds, outcomes, strict=True):
        print(f"-- {build.name}")
        print(*plot(seconds(outcome)), sep="\n")
    columns = [figures(outcome, scenario.windows(outcome)) for outcome in outcomes]
    print(*table([build.name for build in builds], columns), sep="\n")
    for build, outcome in zip(builds, outcomes, strict=True):
        print(f"{build.name}: promises broken: {'; '.join(outcome.broken) or 'none'}", flush=True)


def verdict(outcome: Outcome, required: Sequence[Bar]) -> int:
    """Print each bar, and whether the run counts at all; the exit code of this scenario."""
    for bar in required:
        print(f"{'met   ' if bar.met else 'MISSED'}  {bar.text}: {bar.measured}")
    if not outcome.valid:
        print(f"INVALID: the load generator was more than {MAX_LATE_SECONDS:g} s late (p99); this run proves nothing")
        return CANNOT_RUN
    return MET if all(bar.met for bar in required) else MISSED


def _report(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:20} {meaning}" for name, meaning in names().items())
    parser = argparse.ArgumentParser(
        prog="make resilience",
        description=__doc__,
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help="run only these (default: all)")
    parser.add_argument("--capacity", type=float, help="orders per second, for all builds; not measured then")
    parser.add_argument("--short", action="store_true", help="shorter times; judges only what holds by construction")
    parser.add_argument(
        "--replicas", type=int, choices=(1, 2), help="of each process, if any is killed (default: both)"
    )
    parser.add_argument("--base", metavar="COMMIT", default="", help="run the same on this commit, side by side")
    parser.add_argument("--suite", default=os.environ.get("SERVERS", "trixie"), help="Debian suite of the servers")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.scenarios) - names().keys()):
        parser.error(f"unknown: {', '.join(unknown)}; see --help")
    return options


if __name__ == "__main__":
    sys.exit(main())
