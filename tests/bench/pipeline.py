# SPDX-License-Identifier: Apache-2.0
"""What an order costs: the whole system at fixed rates, at saturation and at half of it; CPU by process.

The load generator shares the machine with the system. With several builds all their systems run, and the load goes to
one after the other; what the others do while they are idle is in the CPU of broker and database. A machine that is idle
most of the time needs more CPU for the same work, as the load generator shows: compare figures of one rate in one run.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import psycopg

from local.demo.load_generator import LoadGenerator, LoadRecord, Plan
from local.demo.sale import Sale
from local.servers.stack import Stack
from local.system import System
from tests.bench.process_cpu import cpu_seconds
from tests.resilience.builds import Build
from tests.resilience.capacity import FACTOR, FOLLOWS
from tests.resilience.outcome import Window, kept_plan
from tests.resilience.run import STOCK, Report, running
from tests.resilience.table import Figure
from tests.resilience.times import LONG

WARM_UP_SECONDS = 5.0
"""The first part of a step is not counted."""
HALF = 0.5
LOAD_GENERATOR = "load generator"
NOT_COUNTED = ("payment-simulator", "trace-store", LOAD_GENERATOR)
"""They take the place of what belongs to others."""
_DRAIN_SECONDS = 120.0
_MAX_CONNECTIONS = 2000
_MAX_STEPS = 10
_ORDERS = """
with accepted as (
    select extract(epoch from final_at - accepted_at) as seconds from orders
    where accepted_at >= to_timestamp(%(start)s) and accepted_at < to_timestamp(%(end)s))
select (select count(*) from orders where status = 'confirmed'
                                      and final_at >= to_timestamp(%(start)s) and final_at < to_timestamp(%(end)s)),
       coalesce(percentile_cont(0.5) within group (order by seconds), 0)::float8,
       coalesce(percentile_cont(0.95) within group (order by seconds), 0)::float8
from accepted
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rate for some seconds. Rates are orders a second; CPU is in seconds, by process."""

    rate: float
    """What was to be offered."""
    seconds: float
    offered: float
    confirmed: float
    p50_seconds: float
    p95_seconds: float
    cpu: Mapping[str, float]
    valid: bool = True
    """Whether the load generator kept its plan, and every order became final."""

    @property
    def follows(self) -> bool:
        """Whether the confirmations keep up with the load."""
        return self.confirmed >= FOLLOWS * self.offered

    def milliseconds(self, process: str) -> float:
        """Its CPU per confirmed order."""
        return 1000 * self.cpu[process] / (self.confirmed * self.seconds) if self.confirmed else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The steps of one build."""

    fixed: Sequence[Step]
    saturated: Step
    """The step in which most was confirmed, of those in which the load generator kept its plan."""
    half: Step


def measure(
    builds: Sequence[Build], stack: Stack, *, rates: Sequence[float], seconds: float, report: Report
) -> list[Measured]:
    """Run a system of each build at each rate, at saturation and at half of it.

    At the fixed rates the builds take turns, so that what disturbs the machine disturbs all of them. At saturation each
    is alone: what an idle system costs, and what it still does after an overload, would be missing then.
    """

    def of_build(build: Build, system: System) -> Callable[[float], Step]:
        reported = partial(_report_of, build, report)
        return partial(step, system, stack, seconds=seconds, report=reported, seeds=itertools.count(1))

    with ExitStack() as closing:
        systems = [closing.enter_context(running(build, stack, LONG, report)) for build in builds]
        fixed = in_turns([of_build(*pair) for pair in zip(builds, systems, strict=True)], rates)
    found = []
    for build, steps in zip(builds, fixed, strict=True):
        with running(build, stack, LONG, report) as system:
            saturated, half = saturation(of_build(build, system), max(rates))
        found.append(Measured(fixed=steps, saturated=saturated, half=half))
    return found


def in_turns(builds: Sequence[Callable[[float], Step]], rates: Sequence[float]) -> list[list[Step]]:
    """The steps of each build at these rates."""
    for step in builds:
        step(min(rates))  # what the first orders cost is not shown
    taken = [[_undisturbed(step, rate) for step in builds] for rate in sorted(rates)]
    return [list(steps) for steps in zip(*taken, strict=True)]


def saturation(step: Callable[[float], Step], rate: float) -> tuple[Step, Step]:
    """Raise the rate until the confirmations do not follow: the step in which most was confirmed, and half of it.

    The last step is between the last that followed and the one that did not: in that one much is spent on orders that
    are not confirmed within it.
    """
    ladder = [_undisturbed(step, rate)]
    while ladder[-1].follows and len(ladder) < _MAX_STEPS:
        rate *= FACTOR
        ladder.append(_undisturbed(step, rate))
    if not ladder[-1].follows:
        ladder.append(_undisturbed(step, rate / math.sqrt(FACTOR)))
    most = max(ladder, key=lambda taken: (taken.valid, taken.confirmed))
    return most, _undisturbed(step, HALF * most.confirmed)


def _undisturbed(step: Callable[[float], Step], rate: float) -> Step:
    """A step that does not follow is repeated once: something else on the machine may have disturbed it."""
    first = step(rate)
    return first if first.follows else max(first, step(rate), key=lambda taken: taken.confirmed)


def figures(found: Measured) -> list[Figure]:
    """The rows of one build; the rates that all builds have in common are in the labels."""
    named = [(f"{step.rate:g} orders/s offered", step) for step in found.fixed]
    named += [("saturation", found.saturated), ("half of saturation", found.half)]
    return [figure for name, step in named for figure in _of_step(name, step)]


def _of_step(name: str, step: Step) -> Iterator[Figure]:
    yield Figure(f"{name}: confirmed/s", step.confirmed, 1)
    yield Figure("  accepted → final p50, ms", 1000 * step.p50_seconds)
    yield Figure("  accepted → final p95, ms", 1000 * step.p95_seconds)
    counted = [process for process in step.cpu if process not in NOT_COUNTED]
    yield Figure("  CPU per order, ms", sum(map(step.milliseconds, counted)), 2)
    for process in sorted(counted, key=step.milliseconds, reverse=True):
        yield Figure(f"    {process}", step.milliseconds(process), 2)
    for process in NOT_COUNTED:
        yield Figure(f"  not counted: {process}", step.milliseconds(process), 2)


def step(system: System, stack: Stack, rate: float, *, seconds: float, report: Report, seeds: Iterator[int]) -> Step:
    """Offer this rate, wait until all orders are final, and count; ``seeds`` gives each step another one."""
    plan = Plan(
        rate=rate,
        seconds=2 * (WARM_UP_SECONDS + seconds),  # it is stopped earlier
        skus=list(STOCK),
        single_attempt=True,
        max_connections=_MAX_CONNECTIONS,
        seed=next(seeds),  # with the same seed the step would repeat the idempotency keys of the last one
    )
    record = LoadRecord()
    generator = LoadGenerator(plan, urls=system.orders_apis, key=system.orders_key, record=record)
    trees = {**system.supervisor.pids(), **stack.supervisor.pids()}
    window, cpu = asyncio.run(_offered(generator, seconds, trees))
    drained = Sale(system, plan).drain(seconds=_DRAIN_SECONDS)
    confirmed, p50, p95 = _orders(system, window)
    taken = Step(
        rate=rate,
        seconds=window.seconds,
        offered=sum(response.due in window for response in record.responses) / window.seconds,
        confirmed=confirmed / window.seconds,
        p50_seconds=p50,
        p95_seconds=p95,
        cpu=cpu,
        valid=drained and kept_plan(record.responses),
    )
    report(_line(taken, record))
    return taken


async def _offered(
    generator: LoadGenerator, seconds: float, trees: Mapping[str, int]
) -> tuple[Window, dict[str, float]]:
    """Offer the load; the window after the warm-up, and the CPU that each process used in it."""
    async with asyncio.TaskGroup() as group:
        group.create_task(generator.run())
        await asyncio.sleep(WARM_UP_SECONDS)
        start, before = time.time(), _cpu(trees)
        await asyncio.sleep(seconds)
        end, after = time.time(), _cpu(trees)
        generator.stop.set()
    return Window(start, end), {name: after[name] - before[name] for name in after}


def _cpu(trees: Mapping[str, int]) -> dict[str, float]:
    return {**cpu_seconds(trees), LOAD_GENERATOR: time.process_time()}


def _orders(system: System, window: Window) -> tuple[int, float, float]:
    """Orders confirmed in the window; p50 and p95 of the seconds from accepted to final, of those accepted in it."""
    values = {"start": window.start, "end": window.end}
    with psycopg.connect(system.databases["orders"]) as connection:
        ((confirmed, p50, p95),) = connection.execute(_ORDERS.encode(), values).fetchall()
    return confirmed, p50, p95


def _report_of(build: Build, report: Report, line: str) -> None:
    report(f"{build.name:>12}  {line}")


def _line(step: Step, record: LoadRecord) -> str:
    refused = record.refused.total()
    return (
        f"offered {step.offered:5.0f}/s, confirmed {step.confirmed:5.0f}/s, p95 {1000 * step.p95_seconds:6.0f} ms, "
        f"refused {refused}{'' if step.valid else '; NOT VALID: the load generator was late, or orders are not final'}"
    )
