# SPDX-License-Identifier: Apache-2.0
"""An independent witness: a queue of our own that gets a copy of every event that was ever routed."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pika

from orderflow.messages import EVENTS, EXCHANGE

QUEUE = "tap"


@contextmanager
def channel(url: str) -> Iterator["pika.adapters.blocking_connection.BlockingChannel"]:
    """A channel on a connection of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def install(url: str) -> None:
    """Begin to witness; call it before the first order."""
    with channel(url) as tap:
        tap.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        for event in EVENTS:
            tap.queue_bind(QUEUE, EXCHANGE, event.routing_key)


def witnessed(url: str) -> dict[tuple[str, str], set[str]]:
    """(correlation id, event type) to the distinct message ids of all events so far; forgets them."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    with channel(url) as tap:
        for method, properties, _ in tap.consume(QUEUE, auto_ack=True, inactivity_timeout=1.0):
            if method is None or properties is None:
                break
            seen[(properties.correlation_id or "", properties.type or "")].add(properties.message_id)
    return dict(seen)
