# SPDX-License-Identifier: Apache-2.0
"""An independent record: a queue that gets a copy of every routed event."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pika

from orderflow.events import EVENTS, EXCHANGE
from orderflow.messaging.rabbitmq.field_table_patch import read_all_tables

QUEUE = "event_recorder"
_ACK_EVERY = 500
_SECONDS = 30.0
"""Longest wait for one event that is in the queue."""


@contextmanager
def channel(url: str) -> Iterator["pika.adapters.blocking_connection.BlockingChannel"]:
    """A channel on a connection of its own."""
    read_all_tables()
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def install(url: str) -> None:
    """Declare and bind the queue; call this before the first order."""
    with channel(url) as opened:
        opened.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        for event in EVENTS:
            opened.queue_bind(QUEUE, EXCHANGE, event.routing_key)


class EventRecorder:
    """Records every event of its queue; call ``collect`` from time to time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seen: dict[tuple[str, str], set[str]] = defaultdict(set)
        """(correlation id, event type) to the distinct message ids of all events so far."""
        self.copies = Counter[str]()
        """Message id to how often it was published."""

    def collect(self) -> None:
        """Read every event that is in the queue now."""
        with channel(self._url) as opened:
            waiting = opened.queue_declare(QUEUE, passive=True).method.message_count
            if not waiting:
                return
            opened.basic_qos(prefetch_count=2 * _ACK_EVERY)
            for number, (method, properties, _) in enumerate(opened.consume(QUEUE, inactivity_timeout=_SECONDS), 1):
                assert method is not None and properties is not None, f"{waiting} events wait, {number - 1} came"
                self.seen[properties.correlation_id or "", properties.type or ""].add(properties.message_id)
                self.copies[properties.message_id] += 1
                if number % _ACK_EVERY == 0 or number == waiting:
                    opened.basic_ack(method.delivery_tag, multiple=True)
                if number == waiting:
                    break
            opened.cancel()

    def ids(self, event: str) -> set[str]:
        """The message ids of all events of a type."""
        return {message_id for (_, kind), ids in self.seen.items() if kind == event for message_id in ids}

    def repetitions(self, event: str) -> int:
        """How often events of a type were published again."""
        return sum(self.copies[message_id] - 1 for message_id in self.ids(event))
