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
        """Take over what came since the last look."""
        with channel(self._url) as tap:
            tap.basic_qos(prefetch_count=2 * _ACKED_AT_ONCE)
            unacked = 0
            for method, properties, _ in tap.consume(QUEUE, inactivity_timeout=0.3):
                if method is None or properties is None:
                    break
                self.seen[properties.correlation_id or "", properties.type or ""].add(properties.message_id)
                last, unacked = method.delivery_tag, unacked + 1
                if unacked == _ACKED_AT_ONCE:
                    tap.basic_ack(last, multiple=True)
                    unacked = 0
            if unacked:
                tap.basic_ack(last, multiple=True)

    def ids(self, event: str) -> set[str]:
        """The message ids of all events of a type."""
        return {message_id for (_, kind), ids in self.seen.items() if kind == event for message_id in ids}
