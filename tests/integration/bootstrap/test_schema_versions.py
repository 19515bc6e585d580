# SPDX-License-Identifier: Apache-2.0
"""Processes on a database of another version: it is upgraded, or refused with exit code 2."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from local.eventually import eventually
from local.http_json import http_json
from local.servers.stack import Stack
from local.system import System
from orderflow.database_schema import database_schema
from orderflow.events import OrderCreated, OrderLine
from orderflow.messaging.codec import Outgoing
from tests.builders import a_codec, an_event
from tests.rigs.schema_0_1_0 import create_schema_0_1_0
from tests.rigs.service_database import prepare_service
from tests.rigs.system_orders import place_order

pytestmark = pytest.mark.integration

NEWEST = {component.name: len(component.migrations) for component in database_schema("orders")}
PENDING = "the database has {} up to 0000, this version needs {:04}: run `orderflow migrate`"
NEXT = 99
ROWS = {
    "inventory": """
        insert into stock values ('old', 100, 100, 0, 0, 1999, 'EUR', 7);
        insert into stock_ledger values ('old', null, 'put', 100, 0, 0, now());
    """,
    "orders": "insert into availability values ('old', 100, 100, 1999, 'EUR', 7);",
}
OPEN_ORDER = """
    insert into orders values (%(id)s, 'u', '[{"sku": "old", "quantity": 2, "unit_price": 1999}]', 3998, 'EUR',
        'accepted', null, now(), now() + %(hold)s * interval '1 s', null, '{}');
"""


@pytest.fixture
def system(stack: Stack, tmp_path: Path) -> Iterator[System]:
    """Queues, users and empty databases; no process runs yet."""
    system = System(stack, tmp_path, name="schema")
    try:
        system.prepare()
        yield system
    finally:
        system.supervisor.close()
        system.remove()
        system.ports.release()


def execute(url: str, statement: str, **parameters: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode(), parameters or None)


def status(system: System, order: object) -> str:
    code, body = http_json("GET", f"{system.orders_api}/v1/orders/{order}", key=system.orders_key)
    assert code == 200
    return str(body["status"])


def an_unpublished_order(url: str) -> UUID:
    """An order that version 0.1.0 accepted but did not publish."""
    line = OrderLine(sku="old", quantity=2, unit_price=1999)
    event = an_event(OrderCreated, order_id=uuid4(), items=(line,), total_amount=3998)
    execute(url, OPEN_ORDER, id=event.order_id, hold=600)
    row = a_codec("orders").publication(uuid4(), Outgoing(event=event))
    execute(
        url,
        "insert into outbox values (%(id)s, %(exchange)s, %(routing_key)s, %(properties)s, %(body)s, now(), now())",
        id=row.key,
        exchange=row.exchange,
        routing_key=row.routing_key,
        properties=msgspec.json.encode(row.properties).decode(),
        body=row.body,
    )
    return event.order_id


def test_databases_of_version_0_1_0_are_upgraded_and_every_service_works_on_them(system: System) -> None:
    for service, url in system.databases.items():
        create_schema_0_1_0(url, service)
        execute(url, ROWS.get(service, "select 1"))
    orders = system.databases["orders"]
    unpublished, expired = an_unpublished_order(orders), uuid4()
    execute(orders, OPEN_ORDER, id=expired, hold=-1)
    with system.supervisor:
        system.start()
        placed = place_order(system, "old", quantity=3)
        for order, expected in ((unpublished, "confirmed"), (placed, "confirmed"), (expired, "cancelled")):
            eventually(lambda: status(system, order) == expected, seconds=20, what=f"{expected}")  # noqa: B023
        _, stock = http_json("GET", f"{system.inventory_api}/v1/stock/old", key=system.stock_key)
        assert (stock["on_hand"], stock["available"]) == (100, 95)
        assert system.failures() == {}


def serve(system: System, process: str, mode: str) -> subprocess.CompletedProcess[str]:
    """Run a process that must not start."""
    environ = system.environment(process) | {"ORDERFLOW_MIGRATE": mode, "OTEL_SDK_DISABLED": "true"}
    return subprocess.run(
        system.command("serve", process), env=environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("mode", ["off", "accept-newer"])
def test_a_process_that_may_not_migrate_exits_with_2_and_what_is_missing(system: System, mode: str) -> None:
    done = serve(system, "orders", mode)
    assert done.returncode == 2
    missing = [PENDING.format(*component) for component in NEWEST.items()]
    assert done.stderr.splitlines() == missing
    assert '"event":"database.mismatch"' in done.stdout and missing[1] in done.stdout


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_process_on_a_newer_database_exits_with_2_and_what_it_found(system: System, mode: str) -> None:
    an_update_ahead(system)
    done = serve(system, "orders", mode)
    assert done.returncode == 2
    found = f"the database has orders up to {NEXT:04} (next), this version has up to {NEWEST['orders']:04}\n"
    assert done.stderr == found


def test_a_process_starts_on_a_newer_database_when_it_may(system: System) -> None:
    an_update_ahead(system)
    spec = system.spec("orders")
    environ = system.environment("orders") | {"ORDERFLOW_MIGRATE": "accept-newer", "OTEL_SDK_DISABLED": "true"}
    with system.supervisor as supervisor:
        supervisor.start(replace(spec, env=environ, start_after=()))
        assert supervisor.exits("orders") == []


def an_update_ahead(system: System) -> None:
    """The database as the next version will leave it."""
    prepare_service(system.databases["orders"], "orders")
    execute(
        system.databases["orders"],
        "insert into orderflow_migrations (component, number, name, checksum)"
        " values ('orders', %(number)s, 'next', 'x')",
        number=NEXT,
    )
