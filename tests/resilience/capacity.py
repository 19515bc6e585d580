# SPDX-License-Identifier: Apache-2.0
"""Finds the capacity of a build: the load is raised in steps until the confirmations do not follow."""

from collections.abc import Callable
from functools import partial

from local.servers.stack import Stack
from local.system import System
from tests.resilience import faults
from tests.resilience.builds import Build
from tests.resilience.outcome import Outcome, Window, quantile
from tests.resilience.run import Report, load, running
from tests.resilience.times import Times

FIRST_RATE, FACTOR = 80.0, 1.25
FOLLOWS = 0.95
"""Confirmed of the orders offered in a step; below that the system is at its capacity."""
_SETTLED_SHARE = 1 / 3
"""The first part of a step is not counted: its orders become final only later."""
_MAX_STEPS = 15


class GeneratorTooSlow(Exception):
    """The load generator could not offer the load of a step."""


def measure(build: Build, stack: Stack, times: Times, report: Report) -> float:
    """The orders per second that the build confirms at most; raises GeneratorTooSlow."""
    with running(build, stack, times, report) as system:
        return climb(partial(_step, system, times), report)


def climb(step: Callable[[float], Outcome], report: Report) -> float:
    """Raise the rate until the goodput of a step does not follow; the highest goodput of a step."""
    rate, best = FIRST_RATE, 0.0
    for _ in range(_MAX_STEPS):
        outcome = step(rate)
        window = Window(outcome.load.start + _SETTLED_SHARE * outcome.load.seconds, outcome.load.end)
        offered, confirmed = outcome.offered(window) / window.seconds, outcome.goodput(window)
        report(
            f"offered {offered:5.0f}/s, accepted {outcome.accepted(window) / window.seconds:5.0f}/s, "
            f"confirmed {confirmed:5.0f}/s, accepted → final p99 {quantile(outcome.waits(window), 0.99):.2f} s"
        )
        if not outcome.valid:
            raise GeneratorTooSlow(f"the load generator was too slow for {rate:.0f} orders/s")
        best = max(best, confirmed)
        if confirmed < FOLLOWS * offered:
            break
        rate *= FACTOR
    return best


def _step(system: System, times: Times, rate: float) -> Outcome:
    fault = partial(faults.none, seconds=times.capacity_step)
    _, outcome = load(system, rate, fault, times, lambda _: None, seed=round(rate))
    return outcome
