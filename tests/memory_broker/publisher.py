# SPDX-License-Identifier: Apache-2.0
"""Publishing into queues in memory."""

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from orderflow.messaging.broker import Failure, Publication, Receipt
from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import MessagingInstrumentation, PublishObserver
from orderflow.messaging.publish.confirm_window import HARD_CAP, ConfirmWindow


class RoutingAccess(Protocol):
    """What a publisher needs from its broker."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held while queues change."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""

    def expire(self) -> None:
        """Move expired messages to their next queue."""

    def has_exchange(self, exchange: str) -> bool:
        """Whether there is such an exchange."""

    def route(self, exchange: str, routing_key: str) -> Sequence[str]:
        """The queues that get a message."""

    def enqueue(self, queues: Sequence[str], publication: Publication) -> bool:
        """Put a message into queues; false when one of them refused."""


class MemoryPublisher:
    """Publishes into the queues of a MemoryBroker, through the same window as the real publisher."""

    def __init__(
        self, broker: RoutingAccess, *, window: int, instrumentation: MessagingInstrumentation, clock: Clock
    ) -> None:
        self.nack_next = 0
        self.blocked = False
        self.holding = False
        self._broker = broker
        self._instrumentation = instrumentation
        self._clock = clock
        self._size = min(window, HARD_CAP)
        self._window = ConfirmWindow(window, self._group_settled)
        self._confirms: deque[tuple[int, bool]] = deque()

    def publish(self, publications: Sequence[Publication]) -> Receipt:
        """See ``broker.Publisher``."""
        receipt = Receipt([publication.key for publication in publications])
        with self._broker.lock:
            self._broker.expire()
            self._window.add(publications, receipt)
            if self._broker.connected:
                self.flush()
            else:
                self._window.lose()
        return receipt

    @property
    def room(self) -> int:
        """The free places in the window; 0 while blocked or not connected."""
        if self.blocked or not self._broker.connected:
            return 0
        return max(0, self._size - self.open)

    @property
    def open(self) -> int:
        """Publications without a result."""
        return self._window.unconfirmed + self._window.waiting

    def flush(self) -> None:
        """Write what the window allows and settle it, until nothing more can be written."""
        self._confirm()
        while not self.blocked and (due := self._window.due()):
            observer = self._instrumentation.publishing(due)
            tags = self._window.written(len(due), observer, self._clock.monotonic())
            if not all(self._broker.has_exchange(publication.exchange) for publication in due):
                self._confirms.clear()  # as when the broker closes the channel
                self._window.refused(Failure.REFUSED)
                continue
            self._confirms += [(tag, self._accept(publication)) for tag, publication in zip(tags, due, strict=True)]
            self._instrumentation.window(unconfirmed=self._window.unconfirmed, waiting=self._window.waiting)
            self._confirm()

    def lose(self) -> None:
        """Lose the connection; called by the broker."""
        self._confirms.clear()
        self._window.lose()

    def _accept(self, publication: Publication) -> bool:
        """Whether the broker confirms a publication; it confirms an unroutable one too."""
        if self.nack_next > 0:
            self.nack_next -= 1
            return False
        queues = self._broker.route(publication.exchange, publication.routing_key)
        if not queues:
            self._window.returned(
                publication.exchange, publication.routing_key, publication.properties, publication.body
            )
        return self._broker.enqueue(queues, publication)

    def _confirm(self) -> None:
        while self._confirms and not self.holding:
            tag, acked = self._confirms.popleft()
            self._window.settle(tag, multiple=False, acked=acked)

    def _group_settled(
        self, observer: PublishObserver, confirmed: int, failures: Counter[Failure], written_at: float
    ) -> None:
        seconds = self._clock.monotonic() - written_at
        observer.settled(confirmed=confirmed, failures=failures, seconds=seconds)
