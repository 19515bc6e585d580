# SPDX-License-Identifier: Apache-2.0
"""Queues in memory, and the routing of topic exchanges."""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orderflow.messaging.broker import Properties


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue as it is declared. Like every queue it also gets what is published to exchange "" under its name.

    ``bindings`` are (exchange, pattern) pairs; an exchange exists when it is bound, and is a topic exchange. A full
    queue refuses messages. After ``expires_after_seconds`` a message moves to the queue ``expires_to``. With
    ``single_active`` one consumer gets every message until it unsubscribes.
    """

    bindings: Sequence[tuple[str, str]] = ()
    max_length: int | None = None
    expires_after_seconds: float | None = None
    expires_to: str = ""
    single_active: bool = False


Topology = Mapping[str, QueueSpec]
"""Queues by name."""


@dataclass(slots=True)
class Message:
    """One message in a queue; ``queued_at`` is the clock's monotonic time."""

    exchange: str
    routing_key: str
    properties: Properties
    body: bytes
    queued_at: float = 0.0
    redelivered: bool = False
    user_id: str | None = None


class QueueConsumer(Protocol):
    """A consumer of a queue."""

    @property
    def unacknowledged(self) -> OrderedDict[int, Message]:
        """Unacknowledged messages by delivery tag."""

    @property
    def subscribed(self) -> bool:
        """True while it is connected and has not unsubscribed."""

    @property
    def has_capacity(self) -> bool:
        """True when it may receive another message."""

    def deliver(self, message: Message, now: float) -> None:
        """Take a message."""


@dataclass(slots=True)
class Queue:
    """The messages of a queue and its consumers."""

    name: str
    spec: QueueSpec
    ready: deque[Message] = field(default_factory=deque)
    consumers: deque[QueueConsumer] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.ready) + sum(len(consumer.unacknowledged) for consumer in self.consumers)

    @property
    def full(self) -> bool:
        """True when it refuses another message."""
        return self.spec.max_length is not None and len(self.ready) >= self.spec.max_length

    def deliver_ready(self, now: float) -> None:
        """Deliver ready messages, in turn, to the consumers that are below their prefetch."""
        while self.ready and (consumer := self._next_consumer()):
            consumer.deliver(self.ready.popleft(), now)

    def _next_consumer(self) -> QueueConsumer | None:
        if self.spec.single_active:
            active = next((consumer for consumer in self.consumers if consumer.subscribed), None)
            return active if active is not None and active.has_capacity else None
        for _ in range(len(self.consumers)):
            self.consumers.rotate(-1)
            if self.consumers[-1].has_capacity:
                return self.consumers[-1]
        return None

    def requeue(self, messages: Sequence[Message]) -> None:
        """Put delivered, unacknowledged messages back at the head of the queue."""
        for message in messages:
            message.redelivered = True
        self.ready.extendleft(reversed(messages))

    def expired(self, now: float) -> list[Message]:
        """Remove and return the expired messages."""
        seconds, gone = self.spec.expires_after_seconds, []
        while seconds is not None and self.ready and self.ready[0].queued_at + seconds <= now:
            gone.append(self.ready.popleft())
        return gone


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic pattern matches: ``*`` is one word, ``#`` is any number of words."""
    return _fits(pattern.split("."), routing_key.split(".") if routing_key else [])


def _fits(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_fits(pattern[1:], words[taken:]) for taken in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _fits(pattern[1:], words[1:])
