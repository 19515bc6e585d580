# SPDX-License-Identifier: Apache-2.0
"""What a dead process had begun goes on at once, not when its leases end; what a living one has begun stays its own.

The leases of these systems are far longer than the tests: a row that waited for the end of its lease would fail them.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.demo.load_generator import Plan
from local.demo.sale import Sale
from local.eventually import eventually
from local.http_json import http
from local.servers.rabbitmq import RabbitMQ
from local.servers.stack import Stack
from local.system import PROCESSES
from orderflow.messaging.lease_sweeper import SETTLING_SECONDS
from tests.integration.faults.trial import STOCK, Trial, trial
from tests.rigs.consumer import one

pytestmark = [pytest.mark.integration, pytest.mark.faults]

LONG_LEASES = {
    "ORDERFLOW_OUTBOX_LEASE_SECONDS": "3000",
    "ORDERFLOW_PAYMENT_TIMEOUT_SECONDS": "60",  # so the lease of a call is 125 s
    "ORDERFLOW_HOLD_SECONDS": "3000",
}
IN_FLIGHT = "select count(*) from charges where leased_by is not null"
UNFINISHED = "select count(*) from orders where final_at is null"


@pytest.fixture
def shop(breakable: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    seed = 30_000 + len(request.node.name)
    with trial(breakable, tmp_path, seed=seed, environ=LONG_LEASES) as started:
        yield started


def place_orders(shop: Trial, seconds: float = 1, rate: float = 20) -> int:
    """So many orders were accepted."""
    plan = Plan(rate=rate, seconds=seconds, skus=[sku for sku in STOCK if sku != "scarce"], seed=shop.seed)
    shop.sale = Sale(shop.system, plan)
    shop.sale.run()
    return len(shop.sale.record.accepted)


def calls_in_flight(shop: Trial) -> int:
    """So many calls wait for the provider, which is suspended."""
    shop.system.supervisor.kill("payment-simulator", signal.SIGSTOP)
    orders = place_orders(shop)
    payments = shop.system.databases["payments"]
    eventually(lambda: one(payments, IN_FLIGHT) == orders, 60, what="a call for every order")
    return orders


def signal_family(pid: int, number: signal.Signals) -> None:
    """Signal a process and all that it started: the broker's script runs the broker as its child."""
    os.kill(pid, number)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        signal_family(int(child), number)


def metric(shop: Trial, process: str, name: str) -> float:
    """The sum of a metric's samples in one process."""
    url = f"http://127.0.0.1:{shop.system.process_ports[process].telemetry}/metrics"
    lines = http("GET", url, timeout_seconds=10).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@pytest.mark.parametrize("replicas", [1, 2])
def test_calls_of_a_killed_process_are_made_by_another_or_the_next_before_their_lease_ends(
    shop: Trial, replicas: int
) -> None:
    orders, payments = shop.system.databases["orders"], shop.system.databases["payments"]
    calls_in_flight(shop)
    lease_ends = one(payments, "select min(due_at) from charges where leased_by is not null")
    if replicas == 2:
        shop.system.replicate("payments")
    shop.system.supervisor.kill("payments", hold=replicas == 2)
    shop.system.supervisor.kill("payment-simulator", signal.SIGCONT)
    eventually(lambda: one(orders, UNFINISHED) == 0, 100, what="every order final")
    assert one(orders, "select max(final_at) from orders") < lease_ends
    if replicas == 2:
        shop.system.supervisor.resume("payments")
    assert shop.judge() == []


def test_events_of_a_killed_process_are_published_before_their_lease_ends(shop: Trial) -> None:
    orders, broker = shop.system.databases["orders"], shop.system.stack.rabbitmq
    assert isinstance(broker, RabbitMQ)
    signal_family(broker.pid, signal.SIGSTOP)  # it confirms nothing
    placed = place_orders(shop)
    assert one(orders, "select count(*) from outbox where leased_until > now() + interval '40 minutes'") == placed
    shop.system.supervisor.kill("orders-api")
    signal_family(broker.pid, signal.SIGCONT)
    eventually(lambda: one(orders, UNFINISHED) == 0, 100, what="every order final")
    eventually(lambda: one(orders, "select count(*) from outbox") == 0, 100, what="an empty outbox")
    assert shop.judge() == []


def test_a_restart_of_the_database_makes_nobody_repeat_the_calls_of_a_living_process(shop: Trial) -> None:
    payments, postgresql = shop.system.databases["payments"], shop.system.stack.postgresql
    shop.system.replicate("payments")
    processes = (*PROCESSES, "payments-2")
    calls = calls_in_flight(shop)
    postgresql.stop_immediate()
    postgresql.start()
    settled = f"select pg_postmaster_start_time() < now() - interval '{2 * SETTLING_SECONDS} seconds'"
    eventually(lambda: one(payments, settled), 60, what="time to take over")
    assert one(payments, IN_FLIGHT) == calls
    shop.system.supervisor.kill("payment-simulator", signal.SIGCONT)
    orders = shop.system.databases["orders"]
    eventually(lambda: one(orders, UNFINISHED) == 0, 100, what="every order final")
    assert sum(metric(shop, name, "orderflow_leases_taken_over_total") for name in processes) == 0
    made = [metric(shop, name, "orderflow_payment_calls_total") for name in ("payments", "payments-2")]
    assert sum(made) == calls
    assert shop.judge() == []


def kill_each_process_once(shop: Trial) -> None:
    targets = [*PROCESSES]
    shop.random.shuffle(targets)
    for target in targets:
        shop.wait_for_orders(30)
        shop.system.supervisor.kill(target)
        shop.system.supervisor.wait_ready(target)


def test_with_leases_of_an_hour_killing_each_process_holds_up_no_order(shop: Trial) -> None:
    shop.sell(kill_each_process_once, rate=40)
    assert shop.judge(seconds=110) == []
    orders = shop.system.databases["orders"]
    assert one(orders, "select max(extract(epoch from final_at - accepted_at)) from orders") < 120
