# SPDX-License-Identifier: Apache-2.0
"""What the core expects of the broker with our policies: delayed retries, delivery limits, full queues that refuse."""

import time
from typing import Any

import msgspec
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from local.eventually import eventually
from orderflow.broker_topology import definitions, work_queues
from orderflow.messaging.service import Queue, Service
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import apply
from orderflow.services import SERVICES
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.broker_get import get

pytestmark = pytest.mark.integration


def put(channel: BlockingChannel, exchange: str, key: str, **properties: Any) -> None:
    channel.basic_publish(exchange, key, b"{}", pika.BasicProperties(delivery_mode=2, **properties), mandatory=True)


def test_a_retry_copy_comes_back_to_its_queue_after_its_delay(shop: Installation, channels: Channels) -> None:
    channel = channels.open(shop.url("orders"))
    for hop in range(2):
        begun = time.monotonic()
        put(channel, "retry", "order_updates.retry.1s", message_id="m", headers={"x-retry-count": hop + 1})
        method, properties, _ = get(channel, "order_updates")
        assert 0.9 <= time.monotonic() - begun < 3
        assert properties.message_id == "m"
        assert properties.headers["x-retry-count"] == hop + 1
        channel.basic_ack(method.delivery_tag)


def test_a_message_that_is_redelivered_too_often_is_dead_lettered_by_the_broker(
    shop: Installation, channels: Channels
) -> None:
    channel = channels.open(shop.url("payments"))
    # It went through a retry queue first, so that is its first death; the last death gives the reason.
    put(channel, "retry", "payment_requests.retry.1s", message_id="m", correlation_id="o")
    deliveries = 0
    while deliveries < 21:
        method, _, _ = get(channel, "payment_requests")
        deliveries += 1
        channel.basic_reject(method.delivery_tag, requeue=True)
    method, properties, _ = get(channels.open(shop.url("replay")), "dead_letter_queue")
    assert method.routing_key == "payment_requests"
    assert properties.headers["x-last-death-reason"] == "delivery_limit"
    assert properties.headers["x-last-death-queue"] == "payment_requests"
    assert properties.headers["x-first-death-queue"] == "payment_requests.retry.1s"
    assert channel.basic_get("payment_requests")[0] is None


def test_a_full_queue_refuses_and_drops_nothing(shop: Installation, channels: Channels) -> None:
    small = [
        msgspec.structs.replace(policy, definition={**policy.definition, "max-length": 5})
        if policy.name == "payment_requests"
        else policy
        for policy in shop.document.policies
    ]
    apply(Management(shop.management_url), msgspec.structs.replace(shop.document, policies=small))
    channel = channels.open(shop.url("inventory"))
    accepted = accepted_until_full(channel)
    reader = channels.open(shop.url("payments"))
    received = 0
    while reader.basic_get("payment_requests", auto_ack=True)[0] is not None:
        received += 1
    assert received >= accepted >= 5


def accepted_until_full(channel: BlockingChannel) -> int:
    """How many messages were confirmed before the queue refused one."""
    for accepted in range(200):
        try:
            put(channel, "order_events", "inventory.reserved")
        except pika.exceptions.NackError:
            return accepted
    pytest.fail("the queue never refused")


def test_the_events_of_one_order_go_to_one_partition(
    vhost: str, management_url: str, shop: Installation, channels: Channels
) -> None:
    work = Queue(name="work", events=tuple(e for s in SERVICES for e in s.publishes), partitions=3)
    parted = definitions([Service(name="one", queues=(work,), publishes=work.events)], vhost=shop.vhost)
    left = apply(Management(management_url), msgspec.structs.replace(parted, users=[], permissions=[])).left
    assert {difference.verdict for difference in left} <= {"extra", "missing"}
    channel = channels.open(vhost)
    for number in range(60):
        for key in ("order.created", "payment.captured"):
            put(channel, "order_events", key, correlation_id=f"order-{number}")
    seen: dict[str, list[str]] = {}

    def note(channel: BlockingChannel, method: Any, properties: Any, _: bytes) -> None:
        seen.setdefault(properties.correlation_id, []).append(queues[method.consumer_tag])
        channel.basic_ack(method.delivery_tag)

    queues = {channel.basic_consume(name, note): name for name in work_queues(work)}

    def all_seen() -> bool:
        channel.connection.process_data_events(0.1)
        return sum(map(len, seen.values())) >= 120

    eventually(all_seen, 30, what="both events of each order")
    assert [len(places) for places in seen.values()] == [2] * 60
    assert all(len(set(places)) == 1 for places in seen.values())
    assert {place for places in seen.values() for place in places} == set(queues.values())
