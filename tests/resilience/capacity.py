# SPDX-License-Identifier: Apache-2.0
"""Finds the capacity of a build: the load is raised in steps until more load does not mean more confirmations."""

from collections.abc import Callable
from dataclasses import dataclass
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
"""Confirmed of the orders offered in a step; below that the backlog grows."""
_MORE = 1.05
"""A step below that confirms this many times the best before it, or the system is at its capacity.

The first step in which the backlog grows shows less than the capacity: its last orders are confirmed after it.
"""
_SETTLED_SHARE = 1 / 3
"""The first part of a step is not counted: its orders become final only later."""
_MAX_STEPS = 15


class GeneratorTooSlow(Exception):
    """The load generator could not offer even the load of the first step."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a build confirms at most."""

    rate: float
    """Orders per second."""
    reached: bool
    """Whether a step offered more than that; without one the build may confirm more."""

    def __str__(self) -> str:
        return f"{'' if self.reached else 'at least '}{self.rate:.1f} orders/s"


def measure(build: Build, stack: Stack, times: Times, report: Report) -> Capacity:
    """The capacity of the build; raises GeneratorTooSlow."""
    with running(build, stack, times, report) as system:
        return climb(partial(_step, system, times), report)


def climb(step: Callable[[float], Outcome], report: Report) -> Capacity:
    """Raise the rate until the goodput of a step neither follows nor grows; the highest goodput of a step.

    A step for which the load generator was too slow does not count, and is the last.
    """
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
            too_slow = f"the load generator was too slow for {rate:.0f} orders/s"
            if not best:
                raise GeneratorTooSlow(too_slow)
            report(f"{too_slow}; this step does not count")
            break
        enough = min(FOLLOWS * offered, _MORE * best)
        best = max(best, confirmed)
        if confirmed < enough:
            return Capacity(best, reached=True)
        rate *= FACTOR
    return Capacity(best, reached=False)


def _step(system: System, times: Times, rate: float) -> Outcome:
    fault = partial(faults.none, seconds=times.capacity_step)
    _, outcome = load(system, rate, fault, times, lambda _: None, seed=round(rate))
    return outcome
