# SPDX-License-Identifier: Apache-2.0
"""The port between the core and a message broker: everything a service process needs, nothing more.

``rabbitmq`` implements it. The contract suite runs on it and on the in-memory broker of the tests.
Every method may be called from any thread. Methods take batches, because each call crosses to the I/O thread once.
"""

import threading
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol
from uuid import UUID

import msgspec

Headers = Mapping[str, str | int]


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """The AMQP properties that orderflow uses. ``timestamp`` is in whole seconds since 1970, as in AMQP."""

    message_id: str | None = None
    correlation_id: str | None = None
    type: str | None = None
    timestamp: int | None = None
    app_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Headers = {}


class Delivery(msgspec.Struct, frozen=True):
    """One message as the broker delivered it. ``received_at`` is the clock's monotonic time of arrival.

    ``user_id`` is the user who published it, verified by the broker; None when the publisher named none.
    """

    tag: int
    exchange: str
    routing_key: str
    redelivered: bool
    properties: Properties
    body: bytes
    received_at: float
    user_id: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """Deliveries of one queue in the order of their tags, and the ``epoch`` of the channel that delivered them."""

    queue: str
    epoch: int
    deliveries: Sequence[Delivery]


class Publication(msgspec.Struct, frozen=True):
    """One persistent, mandatory message to publish. ``key`` names it in its receipt."""

    key: UUID
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


class Failure(Enum):
    """Why a publication is not known to be in a queue."""

    RETURNED = "returned"
    """No queue is bound for it. The broker returns it before it confirms it."""
    NACKED = "nacked"
    """The broker refused it, for example a full queue with overflow=reject-publish."""
    TOO_LARGE = "too_large"
    """It is larger than the broker accepts (``max_message_size``)."""
    REFUSED = "refused"
    """The broker closed the channel because of it, for example because a permission or the exchange is missing."""
    LOST = "lost"
    """The connection ended before the confirm; the message may or may not be in a queue."""


class Receipt:
    """The results of one batch of publications; the broker fills it in, the publisher reads it."""

    def __init__(self, keys: Sequence[UUID]) -> None:
        self.keys = keys
        self.failures: dict[UUID, Failure] = {}
        self._open = len(keys)
        self._settled = threading.Event()
        if not keys:
            self._settled.set()

    def settle(self, count: int) -> None:
        """Count publications as settled. Called by the broker, which adds failures to ``failures`` first."""
        self._open -= count
        if self._open <= 0:
            self._settled.set()

    def fail(self, key: UUID, failure: Failure) -> None:
        """Settle one publication as not delivered."""
        self.failures[key] = failure
        self.settle(1)

    @property
    def settled(self) -> bool:
        """True when the result of every publication is known."""
        return self._settled.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until all are settled or the seconds are over; true when all are settled."""
        return self._settled.wait(seconds)

    @property
    def confirmed(self) -> list[UUID]:
        """The keys of the publications that are known to be in a queue; meaningful once settled."""
        return [key for key in self.keys if key not in self.failures]


class Publisher(Protocol):
    """Publishes with confirms and ``mandatory``, at most a window of unconfirmed messages on the wire."""

    def publish(self, publications: Sequence[Publication]) -> Receipt:
        """Hand over a batch, in order; never blocks. Without a connection every key fails as LOST immediately."""

    @property
    def room(self) -> int:
        """How many publications can be sent without queueing; 0 while blocked, unconnected or the window is full."""


class Consumer(Protocol):
    """Takes the messages of one queue, with manual acknowledgement."""

    @property
    def queue(self) -> str:
        """The queue's name."""

    def receive(
        self,
        *,
        limit: int,
        limit_bytes: int,
        linger_seconds: float,
        timeout_seconds: float,
        collect_seconds: float = 0,
    ) -> Batch | None:
        """Wait up to the timeout for a first message, then up to ``linger_seconds`` more for a full batch.

        The wait for a full batch ends no earlier than ``collect_seconds`` after the call.
        A batch has at most ``limit`` messages and ends with the message that reaches ``limit_bytes``.
        All its messages arrived over the same channel. None when no message arrived.
        """

    def ack(self, batch: Batch) -> None:
        """Acknowledge a whole batch, with one multiple-ack. Batches must be acknowledged in the order received.

        Does nothing when the channel of the batch is closed: the broker delivers the messages again.
        """

    def cancel(self) -> None:
        """Stop the delivery of further messages. ``receive`` still returns what has already arrived.

        With an ordered consumer, ``receive`` returns nothing more. When everything that it returned is acknowledged,
        the other deliveries are requeued, and only then does the next consumer get any message.
        """

    def suspend(self) -> None:
        """Give back everything that is not acknowledged, and take nothing until ``resume``.

        The broker delivers it again, perhaps to another consumer. For the delivery limit of a queue that counts as a
        delivery of each message that was given back.
        """

    def resume(self) -> None:
        """Take messages again."""

    @property
    def drained(self) -> bool:
        """True when cancelled and everything that had arrived was received (or its channel is closed)."""


class Broker(Protocol):
    """A connection to the broker that reconnects by itself, with jittered back-off."""

    def start(self) -> None:
        """Begin to connect, in the background."""

    def publisher(self) -> Publisher:
        """The publisher of this process."""

    def consumer(
        self, queue: str, *, prefetch: int, ordered: bool = False, suspended: bool = False, optional: bool = False
    ) -> Consumer:
        """A consumer of a queue; it subscribes again after every reconnect.

        ``ordered`` is for queues with a single active consumer: each consumer starts after the previous one has ended.
        ``suspended``: it takes nothing until ``resume``. ``optional``: the queue need not exist or be readable.
        """

    @property
    def ready(self) -> bool:
        """True when publishing is possible and every consumer is subscribed, unless it is suspended.

        Of the optional consumers one must be subscribed.
        """

    @property
    def suspended(self) -> bool:
        """True when a consumer is suspended."""

    @property
    def blocked(self) -> bool:
        """True while the broker has blocked publishing because of a resource alarm."""

    @property
    def last_tick(self) -> float:
        """Monotonic time of the last progress of the I/O loop, for the watchdog."""

    def close(self, *, timeout_seconds: float) -> None:
        """Wait for open confirms up to the timeout, close the connections, end the I/O thread."""
