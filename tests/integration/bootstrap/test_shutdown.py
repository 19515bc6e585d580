# SPDX-License-Identifier: Apache-2.0
"""SIGTERM under load: work in progress is finished, nothing is delivered twice, every request gets a response."""

import asyncio
import json
import signal
import threading
import urllib.request
from collections.abc import Iterator

import aiohttp
import pytest

from local.demo.load_generator import LoadGenerator, LoadRecord, Plan
from local.demo.sale import Sale, put_stock
from local.eventually import deadline, eventually
from local.servers.enclosed_server import responds
from local.servers.stack import Stack
from local.system import PROCESSES, System

pytestmark = pytest.mark.integration

STOCK = {"a": 100_000, "b": 100_000}
WORKERS = [name for name in PROCESSES if not name.endswith("-api")]


@pytest.fixture(scope="module")
def system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("shutdown")
    environ = {"ORDERFLOW_LAME_DUCK_SECONDS": "2", "OTEL_TRACES_SAMPLER": "always_off"}
    with System.started(stack, folder, environ=environ, name="shutdown") as started:
        put_stock(started, STOCK)
        yield started


def counted(system: System, name: str, metric: str) -> float:
    """The sum of a process's counter over its queues."""
    url = f"http://127.0.0.1:{system.process_ports[name].telemetry}/metrics"
    with urllib.request.urlopen(url, timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{metric}{{"))


def events(system: System, name: str) -> list[dict[str, object]]:
    """The log lines of a process."""
    lines = (system.directory / f"{name}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_nothing_that_a_consumer_received_comes_again_after_its_drain(system: System) -> None:
    """The broker also marks messages as redelivered that were in flight when the consumer was cancelled.

    That is a race inside the broker (https://github.com/rabbitmq/rabbitmq-server/issues/3729); such messages are new
    to their next consumer. A message that the process had received would be in its inbox.
    """

    def more_orders(sale: Sale, count: int) -> None:
        wanted = len(sale.record.accepted) + count
        eventually(lambda: len(sale.record.accepted) >= wanted, seconds=20, what=f"{count} more orders")

    def stop_and_start(sale: Sale) -> None:
        for name in WORKERS:
            more_orders(sale, 60)
            system.supervisor.stop(name)
            assert system.supervisor.exits(name)[-1] == 0
            system.supervisor.resume(name)
        sale.end()

    sale = Sale(system, Plan(rate=80, seconds=120, skus=list(STOCK)))
    stopper = threading.Thread(target=stop_and_start, args=(sale,))
    stopper.start()
    sale.run()
    stopper.join()
    assert sale.drain(seconds=30)
    duplicates = {name: counted(system, name, "orderflow_messages_duplicate_total") for name in WORKERS}
    assert duplicates == dict.fromkeys(WORKERS, 0.0)
    for name in WORKERS:
        (stopped,) = [line for line in events(system, name) if line["event"] == "process.stopped"]
        assert (stopped["finished"], stopped["failed"]) == (True, False)
    assert sale.record.unknown == []


def test_the_api_fails_no_request_after_it_said_that_it_is_not_ready(system: System) -> None:
    place = system.process_ports["orders-api"]
    generator = LoadGenerator(
        Plan(rate=80, seconds=30, skus=list(STOCK), patience_seconds=0.1),
        urls=system.orders_apis,
        key=system.orders_key,
        record=LoadRecord(),
    )

    async def balance() -> None:
        """Place orders until the API reports that it is not ready, as a load balancer does."""
        ready = f"http://127.0.0.1:{place.telemetry}/readyz"
        async with aiohttp.ClientSession() as session:
            async with deadline(30, what="100 accepted orders"):
                while len(generator.record.accepted) < 100:
                    await asyncio.sleep(0.02)
            system.supervisor.kill("orders-api", signal.SIGTERM, hold=True)
            async with deadline(30, what="the API says that it is not ready"):
                while not generator.stop.is_set():
                    async with session.get(ready) as response:
                        if response.status == 503:
                            assert "stopping" in (await response.json())["reasons"]
                            await asyncio.sleep(0.2)  # a load balancer reacts with a delay, and requests are in flight
                            generator.stop.set()
                    await asyncio.sleep(0.02)

    async def both() -> None:
        await asyncio.gather(generator.run(), balance())

    asyncio.run(both())
    eventually(lambda: not responds(f"http://127.0.0.1:{place.telemetry}/healthz"), seconds=15, what="the API is gone")
    system.supervisor.resume("orders-api")
    assert dict(generator.record.failures) == {}
    assert generator.record.unknown == []
    assert len(generator.record.accepted) + generator.record.refused.total() == generator.record.sent
    assert system.supervisor.exits("orders-api") == [0]


def test_the_stock_api_fails_no_request_after_it_said_that_it_is_not_ready(system: System) -> None:
    place = system.process_ports["inventory-api"]
    ready = f"http://127.0.0.1:{place.telemetry}/readyz"
    statuses: list[int] = []

    async def look(session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {system.stock_key}"}
        async with session.get(f"{system.inventory_api}/v1/stock/a", headers=headers) as response:
            statuses.append(response.status)

    async def balance() -> None:
        """Send requests until the API reports that it is not ready."""
        async with (
            deadline(60, what="50 responses, then the API says that it is not ready"),
            aiohttp.ClientSession() as session,
            asyncio.TaskGroup() as group,
        ):
            stopping = False
            while True:
                group.create_task(look(session))
                if len(statuses) > 50 and not stopping:
                    stopping = True
                    system.supervisor.kill("inventory-api", signal.SIGTERM, hold=True)
                async with session.get(ready) as response:
                    if response.status == 503:
                        return
                await asyncio.sleep(0.01)

    asyncio.run(balance())
    eventually(lambda: not responds(f"http://127.0.0.1:{place.telemetry}/healthz"), seconds=15, what="the API is gone")
    system.supervisor.resume("inventory-api")
    assert set(statuses) == {200}
    assert system.supervisor.exits("inventory-api") == [0]
