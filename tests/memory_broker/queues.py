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

    ``bindings`` are (exchange, pattern) pairs; exchanges exist by being bound, and are topic exchanges. A full queue
    refuses. After ``expires_after_seconds`` a message moves on to the queue ``expires_to``. With ``single_active`` one
    consumer gets everything until it has left.
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


class Taker(Protocol):
    """A consumer as its queue sees it."""

    @property
    def unacknowledged(self) -> OrderedDict[int, Message]:
        """What it holds, by tag."""

    @property
    def subscribed(self) -> bool:
        """True while it is connected and has not left."""

    @property
    def hungry(self) -> bool:
        """True when it may be given another message."""

    def deliver(self, message: Message, now: float) -> None:
        """Take a message."""


@dataclass(slots=True)
class Queue:
    """What waits, and who takes it."""

    name: str
    spec: QueueSpec
    ready: deque[Message] = field(default_factory=deque)
    takers: deque[Taker] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.ready) + sum(len(taker.unacknowledged) for taker in self.takers)

    @property
    def full(self) -> bool:
        """True when it refuses another message."""
        return self.spec.max_length is not None and len(self.ready) >= self.spec.max_length

    def hand_out(self, now: float) -> None:
        """Give what is ready to those that may hold more, in turn."""
        while self.ready and (taker := self._next_taker()):
            taker.deliver(self.ready.popleft(), now)

    def _next_taker(self) -> Taker | None:
        if self.spec.single_active:
            active = next((taker for taker in self.takers if taker.subscribed), None)
            return active if active is not None and active.hungry else None
        for _ in range(len(self.takers)):
            self.takers.rotate(-1)
            if self.takers[-1].hungry:
                return self.takers[-1]
        return None

    def take_back(self, messages: Sequence[Message]) -> None:
        """Put messages back to where they came from: they were delivered, but not acknowledged."""
        for message in messages:
            message.redelivered = True
        self.ready.extendleft(reversed(messages))

    def expired(self, now: float) -> list[Message]:
        """Take out what has waited long enough here."""
        seconds, gone = self.spec.expires_after_seconds, []
        while seconds is not None and self.ready and self.ready[0].queued_at + seconds <= now:
            gone.append(self.ready.popleft())
        return gone


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic pattern fits: ``*`` stands for one word, ``#`` for any number of words."""
    return _fits(pattern.split("."), routing_key.split(".") if routing_key else [])


def _fits(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_fits(pattern[1:], words[taken:]) for taken in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _fits(pattern[1:], words[1:])
