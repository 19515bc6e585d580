# SPDX-License-Identifier: Apache-2.0
"""Dead letters of payments, which tests browse, replay and discard."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from orderflow.events import InventoryReserved
from orderflow.messaging.broker import Publication
from orderflow.messaging.consume.settlement import dead_letter
from orderflow.messaging.publisher_check import Origin
from orderflow.operations.dead_letters.model import Selection
from orderflow.operations.dead_letters.queue import DeadLetterQueue
from tests.builders import NOW, an_event
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.scripted_broker import deliver

ALL = Selection()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PRIVATE = "customer-secret-name"


def store_dead_letters(shop: Installation, channels: Channels, reasons: Sequence[str]) -> list[str]:
    """Publish dead letters of payments, as the core does; returns their message ids."""
    channel = channels.open(shop.url("payments"))
    ids = [str(uuid4()) for _ in reasons]
    origin = Origin(shop.user("inventory"), InventoryReserved.routing_key)
    for number, (message_id, reason) in enumerate(zip(ids, reasons, strict=True)):
        failed_at = NOW + timedelta(seconds=number)
        event = an_event(InventoryReserved, user_id=PRIVATE)
        failed = deliver(event, message_id=message_id, headers={"traceparent": TRACE, "x-retry-count": 3})
        copy = dead_letter(failed, origin=origin, queue="payment_requests", reason=reason, detail="why", now=failed_at)
        publish(channel, copy, user_id=shop.user("payments"))
    return ids


def publish(channel: Any, publication: Publication, *, user_id: str) -> None:
    sent = publication.properties
    properties = pika.BasicProperties(
        message_id=sent.message_id,
        correlation_id=sent.correlation_id,
        type=sent.type,
        timestamp=sent.timestamp,
        content_type=sent.content_type,
        headers=dict(sent.headers),
        user_id=user_id,
        delivery_mode=2,
    )
    channel.basic_publish(publication.exchange, publication.routing_key, publication.body, properties, mandatory=True)


def taken(
    shop: Installation, channels: Channels, queue: str = "payment_requests"
) -> list[tuple[pika.BasicProperties, bytes]]:
    """Remove and return all messages of a queue."""
    channel = channels.open(shop.admin_url)
    found: list[tuple[pika.BasicProperties, bytes]] = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None or properties is None or body is None:
            return found
        found.append((properties, body))


def ids_in(queue: DeadLetterQueue) -> list[str]:
    return [letter.message_id for letter in queue.browse(ALL, limit=1000).letters]


def rejected_too_often(channel: BlockingChannel) -> None:
    """The one message for payments is delivered until the broker has enough."""
    deliveries = 0
    while deliveries < 21:
        method, _, _ = channel.basic_get("payment_requests")
        if method is not None:
            deliveries += 1
            channel.basic_reject(method.delivery_tag, requeue=True)


def waited(queue: DeadLetterQueue, count: int) -> Any:
    """The dead letters once there are that many; the broker forwards its own in the background."""
    for _ in range(200):
        letters = queue.browse(ALL, limit=1000).letters
        if len(letters) >= count:
            return letters
    pytest.fail(f"there were never {count} dead letters")
