# SPDX-License-Identifier: Apache-2.0
"""A broker in the memory of one process, with the same contract as the real one and controls to inject failures.

It settles publications and delivers messages in the caller's thread, so a test does not wait.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace

from orderflow.messaging.broker import Publication
from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from tests.memory_broker.consumer import MemoryConsumer
from tests.memory_broker.publisher import MemoryPublisher
from tests.memory_broker.queues import Message, Queue, QueueSpec, Topology, matches

__all__ = ["MemoryBroker", "QueueSpec", "Topology"]


class MemoryBroker:
    """A ``Broker`` with the queues of a topology. ``window`` is the most unconfirmed publishes, at most 2000.

    A lost connection stays lost until the test connects it again. A waiting queue uses the
    clock; the next call moves its expired messages.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        instrumentation: MessagingInstrumentation,
        clock: Clock,
        window: int = 1000,
        user_id: str | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.connected = False
        self._user_id = user_id
        self._instrumentation = instrumentation
        self._clock = clock
        self._queues = {name: Queue(name, spec) for name, spec in topology.items()}
        self._consumers: list[MemoryConsumer] = []
        self._publisher = MemoryPublisher(self, window=window, instrumentation=instrumentation, clock=clock)

    def start(self) -> None:
        """Connect immediately."""
        self.connect()

    def publisher(self) -> MemoryPublisher:
        """The publisher of this process."""
        return self._publisher

    def consumer(
        self, queue: str, *, prefetch: int, ordered: bool = False, suspended: bool = False, optional: bool = False
    ) -> MemoryConsumer:
        """A consumer of a queue; it subscribes again after every reconnect. See ``Broker``. Here every queue exists."""
        _ = optional
        with self.lock:
            consumer = MemoryConsumer(queue, self, prefetch=prefetch, ordered=ordered, suspended=suspended)
            self._consumers.append(consumer)
            self._queues[queue].consumers.append(consumer)
            if self.connected:
                consumer.connect()
                self.deliver_ready(queue)
            return consumer

    @property
    def ready(self) -> bool:
        """True when publishing is possible and every consumer is subscribed, unless it is suspended."""
        return self.connected and all(consumer.subscribed or consumer.suspended for consumer in self._consumers)

    @property
    def suspended(self) -> bool:
        """True when a consumer is suspended."""
        return any(consumer.suspended for consumer in self._consumers)

    @property
    def blocked(self) -> bool:
        """True while publishing is blocked."""
        return self._publisher.blocked

    @property
    def last_tick(self) -> float:
        """Now: there is no loop that could stop."""
        return self._clock.monotonic()

    def close(self, *, timeout_seconds: float) -> None:
        """Disconnect permanently. It does not wait, because confirms that are held back would never come."""
        _ = timeout_seconds
        self.disconnect()

    def connect(self) -> None:
        """Connect (again), and subscribe every consumer (again)."""
        with self.lock:
            self.connected = True
            self._report_connected()
            self._instrumentation.blocked(blocked=False)
            for consumer in self._consumers:
                consumer.connect()
            for queue in self._queues:
                self.deliver_ready(queue)

    def disconnect(self) -> None:
        """Lose the connection: unconfirmed publications are LOST, unacknowledged messages are queued again."""
        with self.lock:
            if self.connected:
                self.connected = False
                self._publisher.lose()
                self._publisher.blocked = False
                for consumer in self._consumers:
                    self._queues[consumer.queue].requeue(consumer.lose())
                self._report_connected()

    def block(self, *, blocked: bool = True) -> None:
        """Block publishing, as a broker with a resource alarm does, or unblock it."""
        with self.lock:
            self._publisher.blocked = blocked
            self._instrumentation.blocked(blocked=blocked)
            self._publisher.flush()

    def hold(self, *, holding: bool = True) -> None:
        """Hold confirms back, or send all that were held back."""
        with self.lock:
            self._publisher.holding = holding
            self._publisher.flush()

    def nack_next(self, publications: int) -> None:
        """Refuse this many of the next publications."""
        self._publisher.nack_next = publications

    def depth(self, queue: str) -> int:
        """Messages in a queue, including those that are delivered but not acknowledged."""
        with self.lock:
            self.expire()
            return len(self._queues[queue])

    def expire(self) -> None:
        """Move expired messages to their next queue."""
        with self.lock:
            for queue in self._queues.values():
                target = queue.spec.expires_to
                for message in queue.expired(self._clock.monotonic()):
                    self._put(target, replace(message, exchange="", routing_key=target, redelivered=False))

    def has_exchange(self, exchange: str) -> bool:
        """Whether there is such an exchange."""
        return not exchange or any(exchange == bound for q in self._queues.values() for bound, _ in q.spec.bindings)

    def route(self, exchange: str, routing_key: str) -> Sequence[str]:
        """The queues that get a message."""
        if not exchange:
            return [routing_key] if routing_key in self._queues else []
        return [
            queue.name
            for queue in self._queues.values()
            if any(exchange == bound and matches(pattern, routing_key) for bound, pattern in queue.spec.bindings)
        ]

    def enqueue(self, queues: Sequence[str], publication: Publication) -> bool:
        """Put a message into queues; false when one of them refused."""
        full = [name for name in queues if self._queues[name].full]
        for name in queues:
            if name not in full:
                message = Message(
                    publication.exchange,
                    publication.routing_key,
                    publication.properties,
                    publication.body,
                    user_id=self._user_id,
                )
                self._put(name, message)
        return not full

    def return_unacknowledged(self, queue: str, messages: Sequence[Message]) -> None:
        """Queue unacknowledged messages again, and deliver them to the next consumer."""
        self._queues[queue].requeue(messages)
        self.deliver_ready(queue)

    def deliver_ready(self, queue: str) -> None:
        """Deliver the messages that are ready in a queue."""
        self._queues[queue].deliver_ready(self._clock.monotonic())

    def _put(self, queue: str, message: Message) -> None:
        self._queues[queue].ready.append(replace(message, queued_at=self._clock.monotonic()))
        self.deliver_ready(queue)

    def _report_connected(self) -> None:
        for role in ("publish", "consume"):
            self._instrumentation.connected(role, connected=self.connected)
