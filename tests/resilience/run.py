# SPDX-License-Identifier: Apache-2.0
"""Runs one scenario on one build: a system of its own, load, the fault, the wait until all is final, the count."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from local.demo.load_generator import Plan
from local.demo.sale import Sale, SaleProgress, put_stock
from local.servers.stack import Stack
from local.system import PROCESSES, System
from tests.resilience import integrity
from tests.resilience.builds import Build, SystemOfBuild
from tests.resilience.cores import on_the_free_core
from tests.resilience.faults import Scene
from tests.resilience.outcome import Order, Outcome, Window
from tests.resilience.scenarios import Scenario
from tests.resilience.times import Times

STOCK = {f"sku-{number}": 1_000_000 for number in range(1, 21)}
_LONGEST_SECONDS = 3600.0
_EFFECTS_SECONDS = 120.0
"""Refunds, sales and notifications follow the end of an order."""
_PROGRESS_SECONDS = 5.0
_MAX_CONNECTIONS = 8000
"""Requests of ten seconds that get no response; fewer would make new orders wait for old ones."""
_ORDERS = """
select extract(epoch from accepted_at)::float8, extract(epoch from final_at)::float8, status, coalesce(reason, '')
from orders where accepted_at >= to_timestamp(%s) order by accepted_at
"""

Report = Callable[[str], None]


def run(scenario: Scenario, build: Build, stack: Stack, *, times: Times, capacity: float, report: Report) -> Outcome:
    """Run it; raises what made it impossible."""
    with running(build, stack, times, report, replicas=scenario.replicas) as system:
        rate = scenario.rate(capacity)
        report(f"{scenario.name} on {build.name}: {rate:.0f} orders/s offered")
        sale, outcome = load(system, rate, scenario.fault, times, report)
        broken = integrity.broken(system, sale.record, seconds=_EFFECTS_SECONDS)
        return replace(outcome, capacity=capacity, broken=broken, exits=system.failures())


@contextmanager
def running(build: Build, stack: Stack, times: Times, report: Report, *, replicas: int = 1) -> Iterator[System]:
    """A system of this build with stock, on fresh databases and a fresh vhost."""
    name = f"run-{secrets.token_hex(4)}"
    directory = stack.directory / name
    directory.mkdir()
    options = {"build": build, "environ": times.environ, "name": name, "report": report}
    with SystemOfBuild.started(stack, directory, **options) as system:
        system.exits_allowed = True  # they are shown, and judged
        for process in PROCESSES if replicas > 1 else ():
            system.replicate(process)
        put_stock(system, STOCK)
        yield system


def load(
    system: System, rate: float, fault: Callable[[Scene], None], times: Times, report: Report, *, seed: int = 1
) -> tuple[Sale, Outcome]:
    """Place orders until ``fault`` returns, wait until all are final, and read what became of them.

    Another load of the same system needs another ``seed``, or it repeats the keys of the first.
    """
    plan = Plan(
        rate=rate,
        seconds=_LONGEST_SECONDS,
        skus=list(STOCK),
        single_attempt=True,
        max_connections=_MAX_CONNECTIONS,
        seed=seed,
    )
    sale, scene = Sale(system, plan), Scene(system, report)
    began = time.time()
    with on_the_free_core() as cores:

        def act() -> None:
            os.sched_setaffinity(0, cores)  # it may start processes of the system
            fault(scene)

        sale.run_until(act, interrupt=scene.interrupted.set, show=_shown(report))
    window = Window(began, max((response.due for response in sale.record.responses), default=began))
    report("the load has ended; waiting until every order is final")
    sale.drain(seconds=times.drain)
    orders = _orders(system, began)
    return sale, Outcome(
        rate=rate,
        capacity=0,
        load=window,
        read_at=time.time(),
        orders=orders,
        responses=sale.record.responses,
        marks=scene.marks,
    )


def _orders(system: System, since: float) -> list[Order]:
    with psycopg.connect(system.databases["orders"]) as connection:
        rows = connection.execute(_ORDERS.encode(), (since,)).fetchall()
    return [Order(accepted=row[0], final=row[1], status=row[2], reason=row[3]) for row in rows]


def _shown(report: Report) -> Callable[[SaleProgress], None]:
    """A progress line every few seconds."""
    last = 0.0

    def show(moment: SaleProgress) -> None:
        nonlocal last
        if moment.elapsed_seconds - last >= _PROGRESS_SECONDS:
            last = moment.elapsed_seconds
            report(
                f"{last:4.0f} s  accepted {moment.accepted:6}  confirmed {moment.confirmed:6}  "
                f"cancelled {moment.cancelled:5}  open {moment.open:5}  p95 {moment.p95_seconds:6.2f} s"
            )

    return show
