# SPDX-License-Identifier: Apache-2.0
"""What years of data cost: the reconciler, pruning, and the pipeline beside an empty system in the same run."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import psycopg

from local.servers.stack import Stack
from local.system import System
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.consume.inbox import PrunedInbox
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.pruning import STATEMENT_SECONDS, Pruner
from orderflow.operations.reconciler.look import Looks
from orderflow.operations.reconciler.reading import read
from orderflow.operations.reconciler.reconciler import LOOK_STATEMENT_SECONDS
from orderflow.services import SERVICES
from tests.bench import pipeline
from tests.bench.history import INBOX_ROWS, preload, queues
from tests.bench.pipeline import Step
from tests.resilience.builds import OURS
from tests.resilience.run import Report, running
from tests.resilience.table import Figure
from tests.resilience.times import LONG

_NAMES = ("years", "empty")
_LOOKS = 10
_INTERVAL_SECONDS = 30.0
_PRUNE_SECONDS = 5.0
_OVERLOAD = 1.75
"""More than the highest rate is offered, so that what is confirmed is the capacity."""
_FEW_ROWS = 10_000
_SCANNED = """
select relname, seq_tup_read from pg_stat_user_tables where seq_tup_read > 0 and n_live_tup > %(few)s
"""
_COMPARED = "select count(*) from orders where order_id <= %(last)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class LookTimes:
    """The first looks of a reconciler."""

    seconds: Sequence[float]
    known_after: int
    """How many looks it took to add up the ledger."""
    sweep_seconds: float
    """Time of a whole sweep at the interval of thirty seconds, by how far these looks came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Years:
    """What one system showed."""

    orders: int
    steps: Sequence[Step]
    looks: LookTimes
    pruned: float
    """Rows a second that one pruner deletes while it works half of the time."""
    scanned: Mapping[str, int]
    """Rows of large tables that looks and pruning read without an index."""


def years(
    stack: Stack, *, orders: int, rates: Sequence[float], seconds: float, rounds: int, report: Report
) -> list[Years]:
    """Measure a system with so many old orders, and an empty one."""
    with ExitStack() as closing:
        full, empty = (closing.enter_context(running(OURS, stack, LONG, report)) for _ in range(2))
        begun = time.monotonic()
        preload(full.databases, orders)
        report(f"{orders} orders preloaded in {time.monotonic() - begun:.0f} s")
        before = _scanned(full)
        systems, counts = (full, empty), (orders, 0)
        looks = [_looks(*shown, report) for shown in zip(systems, counts, _NAMES, strict=True)]
        pruned = [_pruned(system) for system in systems]
        report(f"pruned {pruned[0]:.0f} rows/s")
        scanned = {table: rows - before.get(table, 0) for table, rows in _scanned(full).items()}
        steps = _in_turns(systems, stack, _OVERLOAD * max(rates), seconds=seconds, rounds=rounds, report=report)
        return [
            Years(orders=orders, steps=steps[0], looks=looks[0], pruned=pruned[0], scanned=scanned),
            Years(orders=0, steps=steps[1], looks=looks[1], pruned=pruned[1], scanned={}),
        ]


def figures(found: Years) -> list[Figure]:
    """The rows of one system."""
    return [
        Figure("old orders", found.orders),
        Figure("reconciler: first look, ms", 1000 * found.looks.seconds[0]),
        Figure("  following looks, median, ms", 1000 * statistics.median(found.looks.seconds[1:])),
        Figure("  longest look, ms", 1000 * max(found.looks.seconds)),
        Figure("  looks until the ledger is added up", found.looks.known_after),
        Figure("  a whole sweep, minutes", found.looks.sweep_seconds / 60, 1),
        Figure("inbox: rows/s that a pruner deletes", found.pruned),
        *(Figure(f"  rows of {table} read without an index", rows) for table, rows in found.scanned.items() if rows),
        *(_saturation(found.steps) if found.steps else []),
    ]


def _saturation(steps: Sequence[Step]) -> Iterator[Figure]:
    """The medians of the rounds."""
    confirmed = statistics.median(step.confirmed for step in steps)
    counted = [name for name in steps[0].cpu if name not in pipeline.NOT_COUNTED]
    yield Figure("saturation: confirmed/s", confirmed, 1)
    yield Figure("  accepted → final p95, ms", 1000 * statistics.median(step.p95_seconds for step in steps))
    for label, names in (("all", counted), ("postgresql", [name for name in counted if name == "postgresql"])):
        spent = statistics.median(sum(map(step.milliseconds, names)) for step in steps)
        yield Figure(f"  CPU per order, {label}, ms", spent, 2)
    yield Figure("  inbox: rows/s that arrive in each service", INBOX_ROWS * confirmed / len(SERVICES))


def _looks(system: System, orders: int, name: str, report: Report) -> LookTimes:
    """Look until stock and ledger are compared, and at least a few times."""
    databases = {
        name: Database(url, read_only=True, statement_timeout_seconds=LOOK_STATEMENT_SECONDS)
        for name, url in system.databases.items()
    }
    looks, taken, known = Looks(databases, clock=SystemClock()), list[float](), 0
    while len(taken) < _LOOKS or not known:
        begun = time.monotonic()
        look = looks.look()
        taken.append(time.monotonic() - begun)
        known = known or len(taken) * look.stock_known
        report(f"look {len(taken)} of {name}: {1000 * taken[-1]:.0f} ms, found {look.found.order_ids() or 'nothing'}")
    ((compared,),) = read(databases["orders"], _COMPARED, last=looks._sweep._after)
    for database in databases.values():
        database.close()
    share = compared / orders if compared else len(taken)
    return LookTimes(seconds=taken, known_after=known, sweep_seconds=_INTERVAL_SECONDS * len(taken) / share)


def _pruned(system: System) -> float:
    """Rows a second that the pruner of inventory's inbox deletes; it rests as long as it works."""
    recorded = _Rows()
    _run(system.databases["inventory"], "update pruning set due_at = now(), position = ''")
    database = Database(system.databases["inventory"], statement_timeout_seconds=STATEMENT_SECONDS)
    pruner = Pruner(
        database, [PrunedInbox(name, retention_days=30) for name in queues("inventory")], instrumentation=recorded
    )
    begun = time.monotonic()
    while pruner.prune() and time.monotonic() < begun + _PRUNE_SECONDS:
        pass
    seconds = time.monotonic() - begun
    database.close()
    return recorded.rows / seconds / 2


class _Rows(MessagingInstrumentation):
    """Counts the rows that are deleted."""

    rows = 0

    def pruned(self, name: str, rows: int, finished_seconds: float) -> None:
        _ = name, finished_seconds
        self.rows += rows


def _in_turns(
    systems: Sequence[System], stack: Stack, rate: float, *, seconds: float, rounds: int, report: Report
) -> list[list[Step]]:
    """The steps of each system; the systems take turns, so that what disturbs the machine disturbs both."""
    seeds: Iterator[int] = itertools.count(1)
    steps: list[Callable[[float], Step]] = [
        partial(pipeline.step, system, stack, seconds=seconds, report=partial(_named, name, report), seeds=seeds)
        for system, name in zip(systems, _NAMES, strict=True)
    ]
    for step in steps if rounds else ():
        step(rate / 3)  # what the first orders cost is not shown
    taken = [[step(rate) for step in steps] for _ in range(rounds)]
    return [[of_round[number] for of_round in taken] for number in range(len(systems))]


def _named(name: str, report: Report, line: str) -> None:
    report(f"{name:>6}  {line}")


def _scanned(system: System) -> dict[str, int]:
    found = dict[str, int]()
    for url in system.databases.values():
        with psycopg.connect(url) as connection:
            found.update(connection.execute(_SCANNED.encode(), {"few": _FEW_ROWS}).fetchall())
    return found


def _run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
