# SPDX-License-Identifier: Apache-2.0
"""The consumer core beside other consumers: the same job, broker and database, in turns, each proven to be done."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from local.servers.stack import Stack
from local.system import ROOT
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from tests.bench import job
from tests.bench.go_programs import GoUnavailable, build
from tests.bench.job import OUR_TABLES, PEER_TABLES, Tables
from tests.bench.process_cpu import cpu_seconds

OURS = "ours"
WORKERS = (16, 32)
"""Of the Go program with a transaction for each message; each number is a side of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One consumer: its program, which takes AMQP URL, database URL and messages, and the tables it writes."""

    name: str
    command: tuple[str, ...]
    tables: Tables
    numbers: tuple[int, ...] = ()
    """More arguments of the program."""
    share: int = 1
    """It gets the messages of a round divided by this, because it is slower."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one side: messages a second, and microseconds of CPU per message, by who used it."""

    rate: float
    micros: Mapping[str, float]


def sides(report: Callable[[str], None]) -> Iterator[Side]:
    """Every side that can run here; without Go its sides are left out, and the report says so."""
    yield Side(name=OURS, command=(sys.executable, "-m", "tests.bench.ours"), tables=OUR_TABLES)
    peer = (sys.executable, "-m", "tests.bench.peer")
    yield Side(name="FastStream, a transaction a message", command=peer, tables=PEER_TABLES, share=5)
    try:
        programs = build(report)
    except GoUnavailable as error:
        report(f"the compiled clients are left out: {error}")
        return
    for workers in WORKERS:
        yield Side(
            name=f"Go, a transaction a message, {workers} workers",
            command=(str(programs / "idiomatic"),),
            tables=PEER_TABLES,
            numbers=(workers,),
            share=5,
        )
    yield Side(name="Go, our batch design (the limit)", command=(str(programs / "batched"),), tables=OUR_TABLES)


def compare(stack: Stack, rounds: int, messages: int) -> None:
    """Run all sides in turns, with fresh queues and tables, and print what each of them did and used."""
    database_url = stack.postgresql.create_database("bench")
    database = Database(database_url)
    migrate(database, [messaging_schema()])
    database.close()
    results: dict[str, list[Result]] = {}
    contenders = list(sides(partial(print, flush=True)))
    for number in range(1, rounds + 1):
        for side in contenders:
            result = _measure(side, stack, database_url, messages // side.share)
            results.setdefault(side.name, []).append(result)
            print(f"  round {number}  {result.rate:8.0f} messages/s  {side.name}", flush=True)
    print(*summary(results), sep="\n", flush=True)


def _measure(side: Side, stack: Stack, database_url: str, messages: int) -> Result:
    amqp_url, servers = stack.rabbitmq.amqp_url, stack.supervisor.pids()
    job.prepare(amqp_url, database_url, messages)
    before = cpu_seconds(servers)
    found = _run(side, amqp_url, database_url, messages)
    used = {name: seconds - before[name] for name, seconds in cpu_seconds(servers).items()}
    if broken := job.broken(amqp_url, database_url, side.tables, messages):
        sys.exit(f"{side.name}: the job was not done: {broken}")
    micros = {name: 1e6 * seconds / messages for name, seconds in {"client": found["cpu_seconds"], **used}.items()}
    return Result(messages / found["seconds"], micros)


def _run(side: Side, amqp_url: str, database_url: str, messages: int) -> dict[str, float]:
    command = [*side.command, amqp_url, database_url, *map(str, (messages, *side.numbers))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        sys.exit(f"{side.name} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(results: Mapping[str, Sequence[Result]]) -> Iterator[str]:
    """A table of the medians, and the ratio of our rate to each other's: in each round, and the median of those.

    The sides of one round ran within seconds; between rounds the machine may have become slower.
    """
    users = list(results[OURS][0].micros)
    width = max(map(len, results)) + 2
    yield f"{'consumer core: µs of CPU per message':{width}}{'messages/s':>12}" + "".join(
        f"{user:>12}" for user in [*users, "all"]
    )
    for name, runs in results.items():
        used = [statistics.median(run.micros[user] for run in runs) for user in users]
        cells = "".join(f"{micros:12.0f}" for micros in [*used, sum(used)])
        yield f"{name:{width}}{_rate(runs):12.0f}{cells}"
    for name, runs in results.items():
        if name == OURS:
            continue
        ratios = [ours.rate / other.rate for ours, other in zip(results[OURS], runs, strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        yield f"ours / {name}: {statistics.median(ratios):.2f} (in each round {shown})"


def _rate(runs: Sequence[Result]) -> float:
    return statistics.median(run.rate for run in runs)
