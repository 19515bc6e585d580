# SPDX-License-Identifier: Apache-2.0
"""Two years of orders in all databases: what is old goes, and a message from that time does nothing, ever so often."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pika
import pytest

from local.eventually import eventually
from local.http_json import http_json
from local.servers.stack import Stack
from local.system import System
from orderflow.events import (
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderLine,
    PaymentRefunded,
    StockLow,
)
from orderflow.messaging.event import Event, encode, event_type
from tests.builders import an_event
from tests.integration.operations.conftest import Channels
from tests.rigs.consumer import one
from tests.rigs.old_orders import fill
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration

LONG_AGO = datetime.now(UTC) - timedelta(days=700)
OLD = {
    "orders": "orders where final_at < now() - interval '100 d'",
    "inventory": "reservations where state <> 'reserved' and updated_at < now() - interval '100 d'",
    "payments": "charges where due_at is null and updated_at < now() - interval '100 d'",
    "notifications": "notifications where updated_at < now() - interval '100 d'",
}
PUBLISHERS: dict[str, tuple[type[Event], ...]] = {
    "orders": (OrderCreated, OrderConfirmed, OrderCancelled),
    "inventory": (InventoryReserved, StockLow),
    "payments": (PaymentRefunded,),
}
# Each queue that gets one of them, but for the orders API's view of the stock, where an old version changes nothing.
DEAD = Counter({"event_too_old": 9, "unknown_order": 1})


@pytest.fixture
def prepared(stack: Stack, tmp_path: Path) -> Iterator[System]:
    """Databases with orders of two years, and processes that will delete after 100 days."""
    environ = {
        "ORDERFLOW_RETENTION_DAYS": "100",
        "ORDERFLOW_LAME_DUCK_SECONDS": "0",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    system = System(stack, tmp_path, name=f"years-{uuid4().hex[:6]}", environ=environ)
    try:
        system.prepare()
        for service, url in system.databases.items():
            prepare_service(url, service)
        fill(system.databases, rows=3000, first_days_ago=730, last_days_ago=1)
        yield system
    finally:
        system.supervisor.close()
        system.remove()
        system.ports.release()


@pytest.fixture
def first_order(prepared: System) -> UUID:
    order: UUID = one(prepared.databases["orders"], "select order_id from orders order by order_id limit 1")
    return order


@pytest.fixture
def system(prepared: System, first_order: UUID) -> Iterator[System]:
    with prepared.supervisor:
        prepared.start()
        yield prepared


def publish(system: System, channels: Channels, order: UUID) -> None:
    """What the services published about this order when it was placed, without a deadline, as new messages."""
    line = OrderLine(sku="b", quantity=1, unit_price=50)
    for user, kinds in PUBLISHERS.items():
        channel = channels.open(system.amqp_url(user))
        for kind in kinds:
            event = an_event(kind, timestamp=LONG_AGO, order_id=order, items=(line,), sku="b")
            properties = pika.BasicProperties(
                message_id=str(uuid4()),
                content_type="application/json",
                type=event_type(kind),
                delivery_mode=2,
                user_id=f"{system.prefix}{user}",
            )
            channel.basic_publish("order_events", kind.routing_key, encode(event), properties, mandatory=True)


def dead_letters(system: System) -> Counter[str]:
    listed = json.loads(system.run_tool("dead-letters", "list", "--json"))
    return Counter(letter["reason"] for letter in listed["dead_letters"])


def effects(system: System) -> list[int]:
    """Rows that an event would add, and calls of the provider."""
    rows = {"inventory": "reservations", "payments": "charges", "notifications": "notifications"}
    ledger = system.directory / "simulator.jsonl"
    calls = len(ledger.read_text().splitlines()) if ledger.exists() else 0
    return [one(system.databases[name], f"select count(*) from {table}") for name, table in rows.items()] + [calls]


def test_a_message_about_a_deleted_order_does_nothing_even_when_it_is_replayed(
    system: System, first_order: UUID, channels: Channels
) -> None:
    for service, old in OLD.items():
        eventually(
            lambda: one(system.databases[service], f"select count(*) from {old}") == 0,  # noqa: B023
            seconds=30,
            what=f"old rows of {service} go",
        )
    before = effects(system)
    publish(system, channels, first_order)
    eventually(lambda: dead_letters(system) == DEAD, seconds=20, what="dead letters")
    system.run_tool("dead-letters", "replay", "--all", "--rate", "1000")
    eventually(lambda: dead_letters(system) == DEAD, seconds=20, what="dead letters again")
    assert effects(system) == before
    system.run_tool("reconcile")
    status, _ = http_json("GET", f"{system.orders_api}/v1/orders/{first_order}", key=system.orders_key)
    assert status == 404
