# SPDX-License-Identifier: Apache-2.0
"""Consuming from queues in memory."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Protocol

from orderflow.messaging.broker import Batch, Delivery
from orderflow.messaging.rabbitmq.delivery_buffer import DeliveryBuffer
from tests.memory_broker.queues import Message


class QueueAccess(Protocol):
    """What a consumer needs from its broker."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held while queues change."""

    @property
    def connected(self) -> bool:
        """True while there is a connection."""

    def expire(self) -> None:
        """Move expired messages to their next queue."""

    def deliver_ready(self, queue: str) -> None:
        """Deliver the messages that are ready."""

    def return_unacknowledged(self, queue: str, messages: Sequence[Message]) -> None:
        """Queue unacknowledged messages again."""


class MemoryConsumer:
    """Consumes one queue of a MemoryBroker."""

    def __init__(self, queue: str, broker: QueueAccess, *, prefetch: int, ordered: bool, suspended: bool) -> None:
        self.suspended = suspended
        self.unacknowledged: OrderedDict[int, Message] = OrderedDict()
        self.subscribed = False
        self._buffer = DeliveryBuffer(queue)
        self._prefetch = prefetch
        self._ordered = ordered
        self._last_tag = 0
        self._broker = broker
        self._cancelled = False
        self._tags = count(1)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._buffer.queue

    @property
    def has_capacity(self) -> bool:
        """True when it may receive another message."""
        return self.subscribed and not self._cancelled and len(self.unacknowledged) < self._prefetch

    @property
    def drained(self) -> bool:
        """True when cancelled and everything that had arrived was received, or its connection was lost."""
        return self._cancelled and not len(self._buffer)

    def receive(
        self,
        *,
        limit: int,
        limit_bytes: int,
        linger_seconds: float,
        timeout_seconds: float,
        collect_seconds: float = 0,
    ) -> Batch | None:
        """See ``broker.Consumer``."""
        self._broker.expire()
        return self._buffer.take(
            limit=limit,
            limit_bytes=limit_bytes,
            linger_seconds=linger_seconds,
            timeout_seconds=timeout_seconds,
            collect_seconds=collect_seconds,
        )

    def ack(self, batch: Batch) -> None:
        """See ``broker.Consumer``."""
        with self._broker.lock:
            if batch.epoch == self._buffer.epoch and batch.deliveries:
                last = batch.deliveries[-1].tag
                while self.unacknowledged and next(iter(self.unacknowledged)) <= last:
                    self.unacknowledged.popitem(last=False)
                self._broker.deliver_ready(self.queue)
                self._leave_when_done()

    def cancel(self) -> None:
        """See ``broker.Consumer``."""
        with self._broker.lock:
            self._cancelled = True
            if self._ordered:
                self._last_tag = self._buffer.stop()
                self._leave_when_done()
            self._buffer.wake()

    def suspend(self) -> None:
        """See ``broker.Consumer``."""
        with self._broker.lock:
            self.suspended = True
            self._broker.return_unacknowledged(self.queue, self.lose())

    def resume(self) -> None:
        """See ``broker.Consumer``."""
        with self._broker.lock:
            resumed, self.suspended = self.suspended, False
            if resumed and self._broker.connected:
                self.connect()
                self._broker.deliver_ready(self.queue)

    def deliver(self, message: Message, now: float) -> None:
        """Receive a message of the queue; called by the broker."""
        tag = next(self._tags)
        self.unacknowledged[tag] = message
        delivery = Delivery(
            tag,
            message.exchange,
            message.routing_key,
            message.redelivered,
            message.properties,
            message.body,
            now,
            message.user_id,
        )
        self._buffer.append(delivery)

    def connect(self) -> None:
        """Begin a new epoch; called by the broker."""
        if not (self._cancelled or self.suspended):
            self._buffer.renew()
            self._tags = count(1)
            self.subscribed = True

    def lose(self) -> list[Message]:
        """Lose the connection; returns the unacknowledged messages in order. Called by the broker."""
        self.subscribed = False
        self._buffer.renew()
        lost = list(self.unacknowledged.values())
        self.unacknowledged.clear()
        return lost

    def _leave_when_done(self) -> None:
        if self._ordered and self._cancelled and not any(tag <= self._last_tag for tag in self.unacknowledged):
            self._broker.return_unacknowledged(self.queue, self.lose())
