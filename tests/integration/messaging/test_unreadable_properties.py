# SPDX-License-Identifier: Apache-2.0
"""Every message that the broker accepts can be received and dead-lettered, and ends no connection."""

from datetime import UTC, datetime
from uuid import uuid4

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from local.demo.poison import every_kind
from local.eventually import eventually
from local.servers.rabbitmq import RabbitMQ as RabbitMQServer
from local.servers.stack import Stack
from orderflow.events import EXCHANGE, OrderCreated
from orderflow.messaging.broker import Delivery
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.consume.settlement import DEAD_LETTER_EXCHANGE, RETRY_EXCHANGE, dead_letter, retry_copy
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.publisher_check import PublisherCheck
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.services.inventory import INVENTORY
from tests.builders import a_codec

pytestmark = pytest.mark.integration

CHECK = PublisherCheck(mode="enforce")


def test_a_message_that_is_too_large_for_a_consumers_memory_is_refused_by_the_broker(stack: Stack) -> None:
    if not isinstance(stack.rabbitmq, RabbitMQServer):
        pytest.skip("the broker was given by URL; its limits cannot be set")
    with pika.BlockingConnection(pika.URLParameters(stack.rabbitmq.amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("large", exclusive=True)
        channel.basic_publish("", "large", b"x" * 2 * 1024 * 1024, mandatory=True)
        with pytest.raises(ChannelClosedByBroker, match="larger than"):
            channel.basic_publish("", "large", b"x" * (2 * 1024 * 1024 + 1), mandatory=True)


class Connections(MessagingInstrumentation):
    """Counts how often a connection ended."""

    def __init__(self) -> None:
        self.lost = 0

    def connected(self, role: str, *, connected: bool) -> None:
        self.lost += not connected


def reason(delivery: Delivery) -> str:
    """Why the consumer of new orders refuses a delivery."""
    with pytest.raises(MalformedMessage) as refusal:
        a_codec("test", publishers=CHECK).incoming(delivery, INVENTORY.queues[0].events, {})
    return refusal.value.reason


def test_poison_of_every_kind_is_received_and_copied_over_the_same_connections(vhost: str) -> None:
    poison, instrumentation = list(every_kind()), Connections()
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("work", durable=True, arguments={"x-queue-type": "quorum"})
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_bind("work", EXCHANGE, OrderCreated.routing_key)
        for exchange in (DEAD_LETTER_EXCHANGE, RETRY_EXCHANGE):
            channel.exchange_declare(exchange, "fanout", durable=True)
            channel.queue_declare(exchange, durable=True, arguments={"x-queue-type": "quorum"})
            channel.queue_bind(exchange, exchange)
        for one in poison:
            channel.basic_publish(EXCHANGE, OrderCreated.routing_key, one.body, one.properties, mandatory=True)
    broker = RabbitMQBroker(
        vhost, window=100, instrumentation=instrumentation, clock=SystemClock(), connection_name=f"test {uuid4()}"
    )
    consumer, publisher, now = broker.consumer("work", prefetch=1000), broker.publisher(), datetime.now(UTC)
    broker.start()
    try:
        eventually(lambda: broker.ready, seconds=10, what="the broker is connected")
        came: list[Delivery] = []
        while len(came) < len(poison):
            batch = consumer.receive(limit=500, limit_bytes=1 << 30, linger_seconds=0.1, timeout_seconds=10)
            assert batch is not None
            came += batch.deliveries
        assert [reason(one) for one in came] == [one.reason for one in poison]
        origin, queue = CHECK.origin, "work"
        copies = [
            dead_letter(one, origin=origin(one), queue=queue, reason="r", detail="d" * 300, now=now) for one in came
        ]
        copies += [
            retry_copy(one, origin=origin(one), queue=queue, reason="r", delay_seconds=1, now=now) for one in came
        ]
        receipt = publisher.publish(copies)
        assert receipt.wait(20)
        assert receipt.failures == {}
        assert not any(one.redelivered for one in came)
        assert instrumentation.lost == 0
    finally:
        broker.close(timeout_seconds=5)
