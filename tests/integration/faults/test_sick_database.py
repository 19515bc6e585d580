# SPDX-License-Identifier: Apache-2.0
"""The database fails over, or does not respond to a COMMIT; no good message gets lost, doubled or dead-lettered."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.demo.sale import put_stock
from local.eventually import eventually
from local.servers.ports import Ports
from local.servers.postgresql import PostgreSQL
from local.servers.stack import Stack
from local.system import System
from orderflow.broker_topology import DELIVERY_LIMIT
from orderflow.messaging.consume.settlement import DEAD_LETTER_QUEUE
from tests.integration.faults import event_recorder
from tests.integration.faults.conftest import own_environment
from tests.integration.faults.oracle import depth
from tests.integration.faults.trial import QUICK, STOCK, Trial
from tests.rigs.consumer import one, query
from tests.rigs.standby import Standby, fail_over
from tests.rigs.system_orders import place_order
from tests.rigs.tcp_proxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.faults]

ROUNDS = DELIVERY_LIMIT + 5
ORDERS = 10
HANGING_LOOPS = 3


class ProxiedSystem(System):
    """A system whose processes reach the database through a proxy."""

    def __init__(self, stack: Stack, directory: Path, *, proxy: Proxy, **options: Any) -> None:
        super().__init__(stack, directory, **options)
        self._proxy = proxy

    def prepare(self) -> None:
        super().prepare()
        self.databases = {name: self._proxy.through(url) for name, url in self.databases.items()}


@pytest.fixture
def servers() -> Iterator[tuple[Stack, PostgreSQL, Standby]]:
    """Servers of this test alone, because the primary stays read-only, and a standby."""
    ports = Ports()
    with Stack.start(suite=os.environ.get("SERVERS", "trixie"), environ=own_environment()) as stack:
        primary = stack.postgresql
        assert isinstance(primary, PostgreSQL)
        standby = Standby(primary, ports)
        standby.start()
        yield stack, primary, standby
    ports.release()


def test_a_failover_to_another_server_while_the_old_one_stays_up_read_only_breaks_no_promise(
    servers: tuple[Stack, PostgreSQL, Standby], tmp_path: Path
) -> None:
    stack, primary, standby = servers
    with contextlib.ExitStack() as closing:
        proxy = closing.enter_context(Proxy(primary.url()))
        options = {"environ": QUICK, "name": "failover", "proxy": proxy}
        system = closing.enter_context(ProxiedSystem.started(stack, tmp_path, **options))
        event_recorder.install(system.admin_url)
        put_stock(system, STOCK)
        trial = Trial(system, seed=20_001)

        def move(trial: Trial) -> None:
            trial.wait_for_orders(100)
            fail_over(primary, standby)
            proxy.point_to(standby.url())  # the connections to the old server stay
            before.extend(trial.sale.record.accepted)
            trial.wait_for_accepted(len(before) + 100)

        before: list[str] = []
        trial.sell(move, rate=40)
        assert trial.judge() == []
        later = set(trial.sale.record.accepted) - set(before)
        confirmed = query(system.databases["orders"], "select order_id::text from orders where status = 'confirmed'")
        assert {order_id for (order_id,) in confirmed} & later


def start_and_kill_when_commits_hang(system: System, proxy: Proxy) -> None:
    """A process of inventory whose consumer, and two of its other loops, get no response to their first COMMIT.

    Returns also when messages were dead-lettered, because the consumer has nothing left to do then.
    """
    wanted = proxy.swallowed_commits + HANGING_LOOPS
    environ = system.environment("inventory") | {"ORDERFLOW_DATABASE_URL": proxy.url}
    process = subprocess.Popen(system.command("serve", "inventory"), env=environ, stdout=subprocess.DEVNULL)

    def hanging() -> bool:
        return proxy.swallowed_commits >= wanted or depth(system, DEAD_LETTER_QUEUE) > 0

    try:
        eventually(hanging, pause=0.05, seconds=60, what="the loops hang in their COMMIT")
    finally:
        process.kill()
        process.wait(10)


def test_good_messages_do_not_reach_the_delivery_limit_while_commits_hang(breakable: Stack, tmp_path: Path) -> None:
    patient = QUICK | {"ORDERFLOW_ORDER_DEADLINE_SECONDS": "600", "ORDERFLOW_HOLD_SECONDS": "600"}
    with contextlib.ExitStack() as closing:
        system = closing.enter_context(System.started(breakable, tmp_path, environ=patient, name="hanging"))
        put_stock(system, STOCK)
        system.supervisor.stop("inventory")
        for _ in range(ORDERS):
            place_order(system, "sku-1")
        proxy = closing.enter_context(Proxy(system.databases["inventory"]))
        proxy.swallows_commits = True
        for _ in range(ROUNDS):
            start_and_kill_when_commits_hang(system, proxy)
        assert depth(system, DEAD_LETTER_QUEUE) == 0
        system.supervisor.resume("inventory")
        confirmed = "select count(*) from orders where status = 'confirmed'"
        eventually(lambda: one(system.databases["orders"], confirmed) == ORDERS, seconds=60, what="all are confirmed")
