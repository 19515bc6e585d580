# SPDX-License-Identifier: Apache-2.0
"""``make bench``: orders a second through the pipeline, and messages a second through the core and through a peer.

Figures are comparable only within one run on one machine, so both sides run in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from local.demo.load_generator import Plan
from local.demo.sale import Sale, put_stock
from local.servers.stack import Stack
from local.system import ROOT, System
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from tests.bench import job
from tests.bench.startup import startup


def core(stack: Stack, rounds: int, messages: int) -> None:
    """Run our side and the peer in turns: the same job, broker and database, with fresh queues and tables."""
    database_url = stack.postgresql.create_database("bench")
    database = Database(database_url)
    migrate(database, [messaging_schema()])
    database.close()
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(1, rounds + 1):
        for side, count in (("ours", messages), ("peer", messages // 5)):
            job.prepare(stack.rabbitmq.amqp_url, database_url, count)
            result = _measure(side, stack.rabbitmq.amqp_url, database_url, count)
            _prove(side, stack.rabbitmq.amqp_url, database_url, count)
            rates[side].append(count / result["seconds"])
            micros = 1e6 * result["cpu_seconds"] / count
            print(
                f"  round {number}  {side:5} {rates[side][-1]:8.0f} messages/s  {micros:6.0f} us CPU per message",
                flush=True,
            )
    ratios = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
    ours, peer = (statistics.median(rates[side]) for side in ("ours", "peer"))
    shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    print(f"consumer core: ours {ours:.0f}, FastStream {peer:.0f} messages/s; ratio in each round {shown}")


def _measure(side: str, amqp_url: str, database_url: str, messages: int) -> dict[str, float]:
    command = [sys.executable, "-m", f"tests.bench.{side}", amqp_url, database_url, str(messages)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _prove(side: str, amqp_url: str, database_url: str, messages: int) -> None:
    """Exit unless the job was done: every message is in the inbox and applied, and its event is in the output queue."""
    tables = ("inbox", "bench_state") if side == "ours" else ("peer_inbox", "peer_state")
    counts = {**job.counted(database_url, *tables), job.OUTPUT: job.depth(amqp_url, job.OUTPUT)}
    if set(counts.values()) != {messages}:
        sys.exit(f"{side} did not do the job: {counts}, {messages} expected")


def pipeline(stack: Stack, rate: float, seconds: float) -> None:
    """A sale at this rate through every service: accepted and final orders a second, and latencies."""
    with (
        tempfile.TemporaryDirectory(prefix="orderflow-bench-") as folder,
        System.started(stack, Path(folder)) as system,
    ):
        stock = {f"sku-{number}": 1_000_000 for number in range(1, 21)}
        put_stock(system, stock)
        sale = Sale(system, Plan(rate=rate, seconds=seconds, skus=list(stock)))
        sale.run(lambda moment: None)
        drained = sale.drain(seconds=120)
        database = Database(system.databases["orders"])
        with database.transaction() as transaction:
            ((orders, span, final_span, p50, p95),) = transaction.execute(_PIPELINE)
        database.close()
        print(
            f"pipeline: {orders} orders; accepted {orders / span:.0f}/s, final {orders / final_span:.0f}/s, "
            f"accepted→final p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms; "
            f"{'all final' if drained else 'NOT ALL FINAL'}; peak backlog {sale.peak_open}; "
            f"load generator late by at most {sale.record.late:.2f} s"
        )


_PIPELINE = """
select count(*), extract(epoch from max(accepted_at) - min(accepted_at))::float8,
       extract(epoch from max(final_at) - min(accepted_at))::float8,
       percentile_cont(0.5) within group (order by extract(epoch from final_at - accepted_at))::float8,
       percentile_cont(0.95) within group (order by extract(epoch from final_at - accepted_at))::float8
from orders where status in ('confirmed', 'rejected', 'cancelled')
"""


def main() -> None:
    """Measure what the options ask for, on servers of our own."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--suite", default=os.environ.get("SERVERS", "trixie"), help="Debian suite of the servers")
    parser.add_argument("--only", choices=("core", "pipeline", "startup"), help="measure only this")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the core (default 3)")
    parser.add_argument("--messages", type=int, default=20_000, help="messages a round for us, a fifth for the peer")
    parser.add_argument("--rate", type=float, default=300, help="orders a second offered to the pipeline (default 300)")
    parser.add_argument("--seconds", type=float, default=30, help="length of the pipeline's sale (default 30)")
    options = parser.parse_args()
    with Stack.start(suite=options.suite, report=print) as stack:
        if options.only in {None, "startup"}:
            startup(stack)
        if options.only in {None, "core"}:
            core(stack, options.rounds, options.messages)
        if options.only in {None, "pipeline"}:
            pipeline(stack, options.rate, options.seconds)


if __name__ == "__main__":
    main()
