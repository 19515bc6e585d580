# SPDX-License-Identifier: Apache-2.0
"""An independent record: a queue of our own that gets a copy of every event that was ever routed."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pika

from orderflow.events import EVENTS, EXCHANGE
from orderflow.messaging.rabbitmq.field_table_patch import read_all_tables

QUEUE = "event_recorder"
_ACKED_AT_ONCE = 500
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
    """Begin to record; call it before the first order."""
    with channel(url) as tap:
        tap.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        for event in EVENTS:
            tap.queue_bind(QUEUE, EXCHANGE, event.routing_key)


class EventRecorder:
    """Remembers every event that the tap got; ``look`` now and then, whatever the rest of the system does."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seen: dict[tuple[str, str], set[str]] = defaultdict(set)
        """(correlation id, event type) to the distinct message ids of all events so far."""

    def look(self) -> None:
        """Take over every event that is in the queue now."""
        with channel(self._url) as tap:
            waiting = tap.queue_declare(QUEUE, passive=True).method.message_count
            if not waiting:
                return
            tap.basic_qos(prefetch_count=2 * _ACKED_AT_ONCE)
            for number, (method, properties, _) in enumerate(tap.consume(QUEUE, inactivity_timeout=_SECONDS), 1):
                assert method is not None and properties is not None, f"{waiting} events wait, {number - 1} came"
                self.seen[properties.correlation_id or "", properties.type or ""].add(properties.message_id)
                if number % _ACKED_AT_ONCE == 0 or number == waiting:
                    tap.basic_ack(method.delivery_tag, multiple=True)
                if number == waiting:
                    break
            tap.cancel()

    def ids(self, event: str) -> set[str]:
        """The message ids of all events of a type."""
        return {message_id for (_, kind), ids in self.seen.items() if kind == event for message_id in ids}
