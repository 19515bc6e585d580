# SPDX-License-Identifier: Apache-2.0
"""Starting: wrong settings are reported together; the process waits for missing servers."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from local.eventually import eventually
from local.http_json import http_json
from local.servers.enclosed_server import responds
from local.servers.ports import Ports
from local.servers.stack import Stack
from local.supervisor.supervisor import ProcessFailed, ProcessSpec, Supervisor
from local.system import ROOT, System
from tests.rigs.consumer import one, query
from tests.rigs.service_database import service_database
from tests.rigs.tcp_proxy import at_port

pytestmark = pytest.mark.integration

ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("ORDERFLOW_", "OTEL_"))} | {
    "PYTHONPATH": f"{ROOT / 'app'}:{ROOT}"
}


def orderflow(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "orderflow", *words]
    return subprocess.run(command, env=ENVIRON | environ, capture_output=True, text=True, timeout=60, check=False)


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextmanager
def forwarding(port: int, target: str) -> Iterator[None]:
    """A TCP forwarder on a port that was closed before, as when a server comes up."""
    argv = [sys.executable, "-m", "tests.rigs.tcp_forward", str(port), target]
    with Supervisor() as supervisor:
        supervisor.start(ProcessSpec(name="forward", argv=argv, log=Path(os.devnull), env=ENVIRON, directory=ROOT))
        yield


def test_all_wrong_settings_are_reported_together_and_nothing_is_started() -> None:
    environ = {
        "ORDERFLOW_DATABASE_URL": "mysql://x",
        "ORDERFLOW_BATCH_SIZE": "0",
        "ORDERFLOW_HTTP_PORT": "http",
        "ORDERFLOW_API_KEYS": "no-scope",
        "ORDERFLOW_TYPO": "1",
    }
    done = orderflow("serve", "orders-api", **environ)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    for name in (*environ, "ORDERFLOW_AMQP_URL"):
        assert [line for line in lines if line.startswith(name)], name


def test_an_unknown_process_is_refused_with_the_known_ones() -> None:
    done = orderflow("serve", "shipping")
    assert done.returncode == 2
    assert "orders-api" in done.stderr and "notifications" in done.stderr


def test_a_taken_port_is_named(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = orderflow(
            "serve",
            "notifications",
            ORDERFLOW_AMQP_URL=stack.rabbitmq.amqp_url,
            ORDERFLOW_PUBLISHER_CHECK="off",
            ORDERFLOW_DATABASE_URL=stack.postgresql.url(),
            ORDERFLOW_TELEMETRY_PORT=str(taken.getsockname()[1]),
        )
    assert done.returncode == 1
    assert "ORDERFLOW_TELEMETRY_PORT=" in done.stderr and "in use" in done.stderr


def test_a_process_waits_for_its_broker_and_its_database(stack: Stack, tmp_path: Path) -> None:
    system = System(stack, tmp_path, name="startup")
    system.prepare()
    ports = Ports()
    broker, database = ports.take(), ports.take()

    environ = system.environment("orders") | {
        "ORDERFLOW_AMQP_URL": at_port(system.amqp_url("orders"), broker),
        "ORDERFLOW_DATABASE_URL": at_port(system.databases["orders"], database),
        "OTEL_SDK_DISABLED": "true",
    }
    base = f"http://127.0.0.1:{system.process_ports['orders'].telemetry}"
    log = tmp_path / "orders.log"
    spec = ProcessSpec(
        name="orders",
        argv=system.command("serve", "orders"),
        log=log,
        env=environ,
        directory=ROOT,
        ready=lambda: responds(f"{base}/healthz"),
    )
    with Supervisor() as supervisor:
        supervisor.start(spec)
        eventually(lambda: "database.waiting" in log.read_text(), seconds=20, what="a line that says it waits")
        eventually(
            lambda: "broker.disconnected" in log.read_text(), seconds=20, what="a line that the broker is unavailable"
        )
        assert get(f"{base}/readyz")[0] == 503
        with forwarding(database, urlsplit(system.databases["orders"]).netloc.rpartition("@")[2]):
            eventually(lambda: "database.ready" in log.read_text(), seconds=20, what="the database is used")
            eventually(lambda: get(f"{base}/readyz")[1]["reasons"] == ["no broker"], seconds=10, what="only the broker")
            with forwarding(broker, urlsplit(stack.rabbitmq.amqp_url).netloc.rpartition("@")[2]):
                eventually(lambda: get(f"{base}/readyz")[0] == 200, seconds=30, what="ready")
        assert supervisor.exits("orders") == []
    assert "s3cret" not in log.read_text() and system.passwords["orders"] not in log.read_text()
    system.supervisor.close()
    system.remove()
    system.ports.release()
    ports.release()


def test_an_api_is_ready_again_without_a_request_when_its_database_returns(stack: Stack, tmp_path: Path) -> None:
    system = System(stack, tmp_path, name="blip")
    system.prepare()
    ports = Ports()
    database = ports.take()
    target = urlsplit(system.databases["orders"]).netloc.rpartition("@")[2]
    environ = system.environment("orders-api") | {
        "ORDERFLOW_DATABASE_URL": at_port(system.databases["orders"], database),
        "OTEL_SDK_DISABLED": "true",
    }
    base = f"http://127.0.0.1:{system.process_ports['orders-api'].telemetry}"
    spec = replace(system.spec("orders-api"), env=environ, start_after=())
    order = f"{system.orders_api}/v1/orders/00000000-0000-7000-8000-000000000000"

    def read() -> int:
        return http_json("GET", order, key=system.orders_key)[0]

    with system.supervisor as supervisor:
        with forwarding(database, target):
            supervisor.start(spec)
            assert read() == 404
        assert {read() for _ in range(8)} == {503}
        assert get(f"{base}/readyz") == (503, {"ready": False, "reasons": ["no database"]})
        with forwarding(database, target):
            eventually(lambda: get(f"{base}/readyz")[0] == 200, seconds=20, what="ready without a request")
            assert read() == 404
        assert supervisor.exits("orders-api") == []
    system.remove()
    system.ports.release()
    ports.release()


CONNECTIONS = "select count(*) from pg_stat_activity where application_name = 'orderflow notifications'"
LOCKED = """
select count(*) from pg_locks, instances
where locktype = 'advisory' and mode = 'ShareLock' and granted and objsubid = 1
and (classid::bigint << 32) + objid::bigint = instances.id
"""


def test_the_connections_of_a_process_are_few_and_each_holds_its_lock(stack: Stack, tmp_path: Path) -> None:
    """Those of the calls, of the sweeper and of the consumer, which has proved a write; hourly work keeps none."""
    system = System(stack, tmp_path, name="connections")
    system.prepare()
    database = system.databases["notifications"]
    mine = f"{CONNECTIONS} and datname = current_database()"
    with system.supervisor as supervisor:
        supervisor.start(replace(system.spec("notifications"), start_after=()))
        eventually(lambda: one(database, LOCKED) == one(database, mine) == 3, seconds=20, what="three connections")
    system.remove()
    system.ports.release()


OLD_ROWS = """
insert into inbox select queue, gen_random_uuid(), now() - age
from unnest(array['order_updates', 'availability_updates']) as queue,
     unnest(array[interval '31 days', '29 days']) as age;
insert into idempotency select 'c', age::text, '', gen_random_uuid(), '', now() - age
from unnest(array[interval '73 hours', '71 hours']) as age
"""
ROWS = "select (select count(*) from inbox), (select count(*) from idempotency)"


def test_a_process_prunes_what_its_service_has_and_exports_it(stack: Stack, tmp_path: Path) -> None:
    system = System(stack, tmp_path, name="prune")
    system.prepare()
    with (
        service_database(system.databases["orders"], "orders") as database,
        database.transaction() as transaction,
    ):
        transaction.run_script(OLD_ROWS)
    metrics = f"http://127.0.0.1:{system.process_ports['orders'].telemetry}/metrics"

    def exported(name: str) -> list[str]:
        with urllib.request.urlopen(metrics, timeout=5) as response:
            return [line for line in response.read().decode().splitlines() if line.startswith(f"{name}{{")]

    with system.supervisor as supervisor:
        supervisor.start(replace(system.spec("orders"), start_after=()))
        eventually(lambda: query(system.databases["orders"], ROWS) == [(2, 1)], seconds=20, what="old rows gone")
        what = ("idempotency", "inbox:availability_updates", "inbox:order_updates")
        eventually(
            lambda: (
                sorted(exported("orderflow_pruned_rows_total"))
                == [f'orderflow_pruned_rows_total{{rows="{name}"}} 1.0' for name in what]
            ),
            seconds=20,
            what="one row of each",
        )
        assert len(exported("orderflow_prune_finished_age_seconds")) == 3
    system.remove()
    system.ports.release()


def test_a_process_that_fails_is_reported_although_it_was_restarted(stack: Stack, tmp_path: Path) -> None:
    def crash(system: System) -> None:
        system.supervisor.kill("payments")
        os.kill(system.supervisor.pid("orders"), signal.SIGKILL)  # as the kernel does when memory runs out
        eventually(lambda: system.failures() == {"orders": [-signal.SIGKILL]}, seconds=10, what="the exit is recorded")
        system.supervisor.wait_ready("orders", "payments")

    with pytest.raises(ProcessFailed, match="orders"), System.started(stack, tmp_path, name="crash") as system:
        crash(system)
