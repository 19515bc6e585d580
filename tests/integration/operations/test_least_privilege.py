# SPDX-License-Identifier: Apache-2.0
"""Every broker user can do what it needs; the broker refuses everything else."""

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError, UnroutableError

from orderflow.broker_topology import work_queues
from orderflow.messaging.consume.settlement import DELAYS_SECONDS, retry_queue
from orderflow.messaging.service import Service
from orderflow.operations.management_api import ManagementRefused
from orderflow.services import SERVICES
from tests.integration.operations.conftest import Channels, Installation

pytestmark = pytest.mark.integration

Operation = Callable[[BlockingChannel], object]


def put(channel: BlockingChannel, exchange: str, key: str, **properties: Any) -> None:
    """Publish and wait for the confirm; raises when the message is not in a queue."""
    channel.basic_publish(exchange, key, b"{}", pika.BasicProperties(delivery_mode=2, **properties), mandatory=True)


@pytest.mark.parametrize("declared", SERVICES, ids=lambda service: service.name)
def test_a_service_publishes_its_events_consumes_its_queues_and_dead_letters_its_messages(
    declared: Service, shop: Installation, channels: Channels
) -> None:
    channel = channels.open(shop.url(declared.name))
    for event in declared.publishes:
        put(channel, "order_events", event.routing_key)
    for queue in [name for owned in declared.queues for name in work_queues(owned)]:
        for delay in DELAYS_SECONDS:
            put(channel, "retry", retry_queue(queue, delay))
        put(channel, "dlx", queue)
        channel.basic_qos(prefetch_count=10)
        channel.basic_cancel(channel.basic_consume(queue, lambda *_: None))


def test_replay_reads_dead_letters_and_writes_to_work_queues(shop: Installation, channels: Channels) -> None:
    put(channels.open(shop.url("payments")), "dlx", "payment_requests")
    channel = channels.open(shop.url("replay"))
    method, _, _ = channel.basic_get("dead_letter_queue")
    assert method is not None
    put(channel, "replay", "payment_requests")
    channel.basic_ack(method.delivery_tag)


def test_replay_cannot_reach_a_queue_that_is_not_a_work_queue(shop: Installation, channels: Channels) -> None:
    for key in ("dead_letter_queue", "payment_requests.retry.1s", "nowhere"):
        with pytest.raises(UnroutableError):
            put(channels.open(shop.url("replay")), "replay", key)


def test_monitor_sees_the_queues_and_topology_the_definitions(shop: Installation) -> None:
    assert b"order_updates" in shop.api("monitor").get("queues", shop.vhost)
    assert b"order_updates" in shop.api("topology").get("definitions")


QUORUM = {"x-queue-type": "quorum"}
FORBIDDEN: dict[str, tuple[str, Operation]] = {
    "declare a queue": ("orders", lambda c: c.queue_declare("mine", durable=True, arguments=QUORUM)),
    "declare a queue of the broker's naming": ("orders", lambda c: c.queue_declare("", exclusive=True)),
    "declare an exchange": ("orders", lambda c: c.exchange_declare("mine", "topic", durable=True)),
    "delete its own queue": ("orders", lambda c: c.queue_delete("order_updates")),
    "delete the events exchange": ("orders", lambda c: c.exchange_delete("order_events")),
    "purge another queue": ("orders", lambda c: c.queue_purge("payment_requests")),
    "bind its queue to more events": ("orders", lambda c: c.queue_bind("order_updates", "order_events", "#")),
    "unbind its queue": ("orders", lambda c: c.queue_unbind("order_updates", "order_events", "payment.captured")),
    "bind exchanges": ("orders", lambda c: c.exchange_bind("dlx", "order_events", "#")),
    "publish to the default exchange": ("orders", lambda c: put(c, "", "payment_requests")),
    "publish to the replay exchange": ("orders", lambda c: put(c, "replay", "payment_requests")),
    "publish another service's event by a second routing key": (
        "inventory",
        lambda c: put(c, "order_events", "inventory.reserved", headers={"CC": ["payment.captured"]}),
    ),
    "slip a message into another's queue by a second routing key": (
        "inventory",
        lambda c: put(c, "retry", "inventory_updates.retry.1s", headers={"BCC": ["order_updates.retry.1s"]}),
    ),
    "publish to amq.topic": ("orders", lambda c: put(c, "amq.topic", "order.created")),
    "publish another service's event": ("orders", lambda c: put(c, "order_events", "payment.captured")),
    "publish a made-up event": ("payments", lambda c: put(c, "order_events", "payment.captured.twice")),
    "publish any event": ("notifications", lambda c: put(c, "order_events", "order.confirmed")),
    "slip a message into another's queue by way of its retry queue": (
        "notifications",
        lambda c: put(c, "retry", "payment_requests.retry.1s"),
    ),
    "dead-letter a message in another's name": ("inventory", lambda c: put(c, "dlx", "payment_requests")),
    "consume another's queue": ("inventory", lambda c: c.basic_consume("payment_requests", lambda *_: None)),
    "read another's queue": ("notifications", lambda c: c.basic_get("order_updates")),
    "read dead letters": ("payments", lambda c: c.basic_get("dead_letter_queue")),
    "read its retry queue": ("payments", lambda c: c.basic_get("payment_requests.retry.1s")),
    "replay: read a work queue": ("replay", lambda c: c.basic_get("payment_requests")),
    "replay: publish an event": ("replay", lambda c: put(c, "order_events", "order.created")),
    "replay: publish to the default exchange": ("replay", lambda c: put(c, "", "payment_requests")),
    "replay: delete the dead letter queue": ("replay", lambda c: c.queue_delete("dead_letter_queue")),
    "monitor: read a queue": ("monitor", lambda c: c.basic_get("order_updates")),
    "monitor: publish": ("monitor", lambda c: put(c, "order_events", "order.created")),
    "topology: read a queue": ("topology", lambda c: c.basic_get("order_updates")),
    "topology: publish": ("topology", lambda c: put(c, "order_events", "order.created")),
}


def test_an_operation_that_no_service_needs_is_refused_by_the_broker(shop: Installation, channels: Channels) -> None:
    results = {}
    for name, (user, operation) in FORBIDDEN.items():
        try:
            operation(channels.open(shop.url(user)))
            results[name] = "allowed"
        except ChannelClosedByBroker as refused:
            results[name] = refused.reply_text.split(" - ")[0]
    assert results == dict.fromkeys(FORBIDDEN, "ACCESS_REFUSED")


@pytest.mark.parametrize("user", [*(service.name for service in SERVICES if service.publishes), "replay"])
def test_a_message_can_name_its_own_publisher_and_no_other(user: str, shop: Installation, channels: Channels) -> None:
    service = next((service for service in SERVICES if service.name == user), None)
    exchange, key = ("order_events", service.publishes[0].routing_key) if service else ("replay", "order_updates")
    put(channels.open(shop.url(user)), exchange, key, user_id=shop.user(user))
    for other in (*(service.name for service in SERVICES), "replay", "topology"):
        if other != user:
            with pytest.raises(ChannelClosedByBroker, match="user_id property set to"):
                put(channels.open(shop.url(user)), exchange, key, user_id=shop.user(other))


def test_its_own_queue_can_be_purged_by_a_service_because_reading_is_enough(
    shop: Installation, channels: Channels
) -> None:
    channels.open(shop.url("orders")).queue_purge("order_updates")


@pytest.mark.parametrize("user", ["orders", "inventory", "payments", "notifications", "replay"])
def test_the_management_api_is_closed_to_services_and_replay(user: str, shop: Installation) -> None:
    for path in (("overview",), ("queues", shop.vhost), ("definitions",), ("users",)):
        with pytest.raises(ManagementRefused) as caught:
            shop.api(user).get(*path)
        assert caught.value.status in {401, 403}


def test_monitor_changes_nothing(shop: Installation) -> None:
    api = shop.api("monitor")
    calls: list[Callable[[], None]] = [
        lambda: api.delete("queues", shop.vhost, "order_updates"),
        lambda: api.delete("queues", shop.vhost, "order_updates", "contents"),
        lambda: api.put("users", "intruder", body={"password": "x", "tags": "administrator"}),
        lambda: api.post("definitions", body=b"{}"),
    ]
    for call in calls:
        with pytest.raises(ManagementRefused):
            call()


def test_a_user_without_a_password_of_the_document_is_refused(shop: Installation, channels: Channels) -> None:
    place = shop.url("orders").split("@")[1]
    for login in ("guest:guest", f"{shop.document.users[0].name}:guessed"):
        with pytest.raises(ProbableAuthenticationError):
            channels.open(f"amqp://{login}@{place}")
