# SPDX-License-Identifier: Apache-2.0
"""No service can speak for another: an order that nobody paid is not confirmed, whoever says that it was paid."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pika
import pytest

from local.demo.sale import put_stock
from local.eventually import eventually
from local.servers.stack import Stack
from local.system import System
from orderflow.events import PaymentCaptured
from orderflow.messaging.event import encode
from tests.builders import an_event
from tests.integration.operations.conftest import Channels
from tests.rigs.consumer import one
from tests.rigs.system_orders import place_order

pytestmark = pytest.mark.integration

ADMIN = "the administrator"
"""Stands for a user with too many rights: the broker keeps the services from these routing keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """PAYMENT_CAPTURED by somebody who must not say so, and the reasons of its dead letter: at first, and replayed."""

    by: str
    exchange: str = "order_events"
    key: str
    named: bool = True
    """Whether it names its publisher, as the broker allows it."""
    claims: bool = False
    """Whether its headers say that payments published it, as those of a retry or a replay do."""
    reason: str
    replayed: str = ""


FORGERIES = (
    Forgery(by="inventory", key="inventory.reserved", reason="wrong_routing_key"),
    Forgery(by="inventory", key="inventory.reserved", claims=True, reason="wrong_routing_key"),
    Forgery(by="inventory", key="inventory.reserved", claims=True, named=False, reason="wrong_routing_key"),
    Forgery(by="payments", key="payment.declined", reason="wrong_routing_key"),
    Forgery(by="payments", key="payment.captured", named=False, reason="missing_user_id"),
    Forgery(
        by="inventory", exchange="dlx", key="inventory_updates", claims=True, reason="x", replayed="unexpected_event"
    ),
    Forgery(by=ADMIN, key="payment.captured", claims=True, reason="wrong_publisher"),
    Forgery(by=ADMIN, key="payment.captured", claims=True, named=False, reason="missing_user_id"),
    Forgery(by=ADMIN, exchange="retry", key="order_updates.retry.1s", claims=True, reason="wrong_routing_key"),
    Forgery(
        by=ADMIN, exchange="retry", key="order_updates.retry.1s", claims=True, named=False, reason="missing_user_id"
    ),
    Forgery(by=ADMIN, exchange="replay", key="order_updates", claims=True, reason="wrong_routing_key"),
    Forgery(by=ADMIN, exchange="replay", key="order_updates", claims=True, named=False, reason="missing_user_id"),
)


@pytest.fixture
def system(stack: Stack, tmp_path: Path) -> Iterator[System]:
    environ = {
        "ORDERFLOW_HOLD_SECONDS": "3600",
        "ORDERFLOW_LAME_DUCK_SECONDS": "0",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    with System.started(stack, tmp_path, name=f"forged-{uuid4().hex[:6]}", environ=environ) as started:
        yield started


def reserved_order(system: System) -> UUID:
    """An order that is never paid, because its provider does not respond."""
    put_stock(system, {"a": 10})
    order = place_order(system, "a", payment_token="never")
    eventually(lambda: status(system) == "reserved", seconds=20, what="a reservation")
    return UUID(order)


def status(system: System) -> str:
    return str(one(system.databases["orders"], "select min(status) from orders"))


def say_it_is_paid(system: System, channels: Channels, order: UUID, forgery: Forgery) -> None:
    url = system.admin_url if forgery.by is ADMIN else system.amqp_url(forgery.by)
    user_id = urlsplit(url).username if forgery.named else None
    headers = {
        "x-original-user-id": f"{system.prefix}payments",
        "x-original-routing-key": "payment.captured",
        "x-queue": "order_updates",
        "x-reason": "x",
        "x-dead-lettered-at": "2026-01-01T00:00:00+00:00",
    }
    properties = pika.BasicProperties(
        message_id=str(uuid4()),
        content_type="application/json",
        delivery_mode=2,
        user_id=user_id,
        headers=headers if forgery.claims else {},
    )
    body = encode(an_event(PaymentCaptured, order_id=order))
    channels.open(url).basic_publish(forgery.exchange, forgery.key, body, properties, mandatory=True)


def dead_letters(system: System) -> Mapping[str, int]:
    """How many there are of each reason, but for those of payments, which is sent every inventory.reserved too."""
    listed = json.loads(system.run_tool("dead-letters", "list", "--json"))
    return Counter(letter["reason"] for letter in listed["dead_letters"] if letter["queue"] != "payment_requests")


def stays_reserved(system: System, *, until: Mapping[str, int]) -> None:
    """The order is not confirmed, until there are these dead letters."""
    eventually(
        lambda: status(system) != "reserved" or dead_letters(system) == until, seconds=20, what=f"dead letters {until}"
    )
    assert status(system) == "reserved"


def test_who_is_not_payments_cannot_say_that_an_order_is_paid(system: System, channels: Channels) -> None:
    order = reserved_order(system)
    for forgery in FORGERIES:
        say_it_is_paid(system, channels, order, forgery)
    stays_reserved(system, until=Counter(forgery.reason for forgery in FORGERIES))
    again = Counter(forgery.replayed or forgery.reason for forgery in FORGERIES)
    for _ in range(2):
        system.run_tool("dead-letters", "replay", "--all", "--rate", "1000")
        stays_reserved(system, until=again)

    say_it_is_paid(system, channels, order, Forgery(by="payments", key="payment.captured", reason=""))
    eventually(lambda: status(system) == "confirmed", seconds=20, what="payments says so itself")
