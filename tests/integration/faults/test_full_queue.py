# SPDX-License-Identifier: Apache-2.0
"""One full queue stops neither the intake nor the other services; what it refused comes later, at little cost."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from local.eventually import eventually
from local.servers.stack import Stack
from local.system import PROCESSES
from orderflow.events import OrderConfirmed
from orderflow.messaging.event import event_type
from orderflow.operations.management_api import Management
from tests.integration.faults.trial import QUICK, STOCK, Trial, trial
from tests.rigs.consumer import one, query

pytestmark = [pytest.mark.integration, pytest.mark.faults]

QUEUE, ROOM, ORDERS = "notification_requests", 20, 600
EVENT = event_type(OrderConfirmed)
RELAYS = sum(service == "orders" for service in PROCESSES.values())
"""No process of the service has more than one."""
INTERVAL = float(QUICK["ORDERFLOW_RELAY_INTERVAL_SECONDS"])
LEASE = {"ORDERFLOW_OUTBOX_LEASE_SECONDS": "5"}
"""Far longer than a confirm takes, so that nothing else is published again."""
ROWS = "select count(*) from outbox"


@pytest.fixture
def shop(breakable: Stack, tmp_path: Path) -> Iterator[Trial]:
    with trial(breakable, tmp_path, seed=41_000, environ=LEASE) as started:
        yield started


def set_room(shop: Trial, messages: int) -> None:
    """Let the queue refuse what exceeds this; the rest of its policy stays as it is."""
    management = Management(shop.system.stack.rabbitmq.management_url)
    policy: dict[str, Any] = msgspec.json.decode(management.get("policies", shop.system.vhost, QUEUE))
    policy["definition"]["max-length"] = messages
    management.put("policies", shop.system.vhost, QUEUE, body=policy)


def in_vain(seconds: float) -> float:
    """The most repetitions of one routing key while its queue stays full: one per interval and relay."""
    return RELAYS * (seconds / INTERVAL + 1)


def repetitions(shop: Trial) -> int:
    shop.recorder.collect()
    return shop.recorder.repetitions(EVENT)


def test_a_full_queue_stops_neither_the_intake_nor_other_services_and_its_events_come_later(shop: Trial) -> None:
    orders, notifications = shop.system.databases["orders"], shop.system.databases["notifications"]
    shop.system.supervisor.stop("notifications")
    set_room(shop, ROOM)
    full_since = time.monotonic()
    shop.sell(lambda _: shop.wait_for_accepted(ORDERS), skus=[sku for sku in STOCK if sku != "scarce"])

    assert shop.sale.drain(seconds=60), "every order is decided while the queue is full"
    assert not shop.sale.record.refused
    assert {row[0] for row in query(orders, "select status from orders")} == {"confirmed"}
    eventually(lambda: one(orders, ROWS) > ORDERS - 10 * ROOM, 30, what="the refused events are in the outbox")
    assert one(notifications, "select count(*) from notifications") == 0

    eventually(lambda: repetitions(shop) >= 20, 60, what="the relays look whether the queue has room")
    repeated = repetitions(shop)
    assert repeated <= in_vain(time.monotonic() - full_since)

    shop.system.supervisor.resume("notifications")
    assert shop.judge() == [], "every order is notified once, and the outbox is empty"
    refused = one(orders, "select count(*) from orders")
    assert repetitions(shop) <= 2 * refused + in_vain(time.monotonic() - full_since)
