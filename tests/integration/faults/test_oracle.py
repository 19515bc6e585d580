# SPDX-License-Identifier: Apache-2.0
"""Tests of the oracle: it reports each seeded bug, and reports nothing for the same provocation without the bug."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from local.eventually import eventually
from local.servers.stack import Stack
from orderflow.broker_topology import definitions
from orderflow.events import EXCHANGE, OrderConfirmed
from orderflow.services import SERVICES
from tests.integration.faults import event_recorder
from tests.integration.faults.trial import STOCK, Trial, trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]

Provocation = Callable[[Trial], None]
FOLDER = "seeded_bugs"
DEATHS = 2
SECONDS = 120.0
"""Longest wait for a provocation, which usually takes seconds."""
STILL_SECONDS = 8
"""A state that has not changed for this long, while no queue, outbox or charge has work, is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A bug of one process, what provokes it, and the kinds of violation that the oracle must report."""

    process: str
    provocation: Provocation
    """Returns once the bug must have had its effect."""
    violations: tuple[str, ...]
    replicas: int = 1
    tokens: Mapping[str, float] = field(default_factory=lambda: {"ok": 1.0})
    skus: Sequence[str] = tuple(STOCK)


def orders_accepted(running: Trial) -> None:
    """Wait until every process has had some orders."""
    running.wait_for_accepted(40)


def deaths(running: Trial) -> None:
    """Two processes have killed themselves before a commit."""
    exits = running.system.supervisor.exits
    died = lambda: exits("inventory").count(-signal.SIGKILL) == DEATHS  # noqa: E731
    eventually(died, seconds=SECONDS, what="the processes kill themselves")
    orders_accepted(running)


def concurrent_reads(running: Trial) -> None:
    """Two processes have read the stock before either wrote it (or, without the bug, have had orders)."""
    folder = running.system.directory / FOLDER

    if any(folder.glob("bug-*")):
        met = lambda: len(list(folder.glob("read-*"))) == 2  # noqa: E731
        eventually(met, seconds=SECONDS, what="two processes read at the same time")
    orders_accepted(running)


def confirmed_orders(running: Trial, *, published: bool) -> int:
    """Confirmed orders, or those of them whose event was published; the outbox has the others."""
    waiting = "(select count(*) from outbox where routing_key = %s)" if published else "0"
    query = f"select count(*) - {waiting} from orders where status = 'confirmed'"
    with psycopg.connect(running.system.databases["orders"]) as connection:
        row = connection.execute(query, [OrderConfirmed.routing_key] if published else []).fetchone()
    assert row is not None
    return int(row[0])


def unbind_confirmations(running: Trial) -> None:
    """Unbind every queue from order.confirmed until two orders are confirmed, then bind all of them again.

    With the bug, until their events were published, which is after the commit; without it, no event leaves the outbox.
    One exchange in between unbinds all queues together, because an event that reaches any queue counts as routed.
    """
    published = any((running.system.directory / FOLDER).glob("bug-*"))
    document, key, way = definitions(SERVICES, vhost=running.system.vhost), OrderConfirmed.routing_key, "confirmations"
    bound = [b.destination for b in document.bindings if (b.source, b.routing_key) == (EXCHANGE, key)]
    with event_recorder.channel(running.system.admin_url) as channel:
        channel.exchange_declare(way, exchange_type="fanout", durable=True)
        for queue in (*bound, event_recorder.QUEUE):
            channel.queue_bind(queue, way)
        channel.exchange_bind(way, EXCHANGE, key)
        for queue in (*bound, event_recorder.QUEUE):
            channel.queue_unbind(queue, EXCHANGE, key)
        channel.exchange_unbind(way, EXCHANGE, key)
        before = confirmed_orders(running, published=published)
        confirmed = lambda: confirmed_orders(running, published=published) >= before + 2  # noqa: E731
        eventually(confirmed, seconds=SECONDS, what="two more orders are confirmed")
        channel.exchange_bind(way, EXCHANGE, key)
    orders_accepted(running)


CASES: Mapping[str, Case] = {
    "ack-before-commit": Case(process="inventory", provocation=deaths, violations=("lost", "drift")),
    "publish-before-commit": Case(process="inventory", provocation=deaths, violations=("doubled",)),
    "inbox-outside": Case(process="inventory", provocation=deaths, violations=("lost", "drift")),
    "not-mandatory": Case(process="orders", provocation=unbind_confirmations, violations=("drift", "lost")),
    "read-then-write": Case(
        process="inventory",
        provocation=concurrent_reads,
        violations=("drift", "oversold"),
        replicas=2,
        skus=("sku-1",),
    ),
    "timeout-is-failure": Case(
        process="payments",
        provocation=orders_accepted,
        violations=("money",),
        tokens={"timeout_executed": 1.0},
    ),
}


def run(stack: Stack, directory: Path, bug: str, case: Case) -> list[str]:
    """The oracle's report on a case's provocation, with a bug in the case's process."""
    folder = directory / FOLDER
    folder.mkdir()
    if bug != "none":
        (folder / f"bug-{bug}").touch()
    module, dying = "tests.integration.faults.seeded_bugs", DEATHS if case.provocation is deaths else 0
    command = [sys.executable, "-m", module, bug, str(dying), str(folder), "serve", case.process]
    # Longer than the trial: an order whose message is lost stays open instead of being cancelled.
    patient = {"ORDERFLOW_ORDER_DEADLINE_SECONDS": "3600", "ORDERFLOW_HOLD_SECONDS": "3600"}
    with trial(stack, directory, seed=31, environ=patient, commands={case.process: command}) as running:
        for _ in range(1, case.replicas):
            running.system.replicate(case.process)
        running.sell(case.provocation, rate=40, tokens=case.tokens, skus=case.skus)
        return running.judge(still_seconds=STILL_SECONDS)


@pytest.mark.parametrize("bug", list(CASES))
def test_the_oracle_reports_a_seeded_bug(breakable: Stack, tmp_path: Path, bug: str) -> None:
    found = run(breakable, tmp_path, bug, CASES[bug])
    assert [violation for violation in found if violation.startswith(CASES[bug].violations)], found


@pytest.mark.parametrize(
    "case",
    [
        "ack-before-commit",
        pytest.param("not-mandatory", marks=pytest.mark.nightly),
        pytest.param("read-then-write", marks=pytest.mark.nightly),
    ],
)
def test_the_oracle_reports_nothing_without_the_bug(breakable: Stack, tmp_path: Path, case: str) -> None:
    assert run(breakable, tmp_path, "none", CASES[case]) == []
