# SPDX-License-Identifier: Apache-2.0
"""Publishes through pika: with confirms, mandatory, and a bounded window."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.broker import Failure, Publication, Receipt
from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import MessagingInstrumentation, PublishObserver
from orderflow.messaging.publish.confirm_window import HARD_CAP, ConfirmWindow
from orderflow.messaging.rabbitmq.connection import ReconnectingConnection
from orderflow.messaging.rabbitmq.properties import from_pika, to_pika
from orderflow.messaging.rabbitmq.refusal import Refusal, refusal

log = logging.getLogger(__name__)


class RabbitPublisher:
    """Publishes over the publish connection, within the window. Any thread may use ``publish`` and ``room``.

    Every message names ``user_id`` as its publisher; the broker closes the channel when that is not the user of the
    connection. It is not part of a publication, because another process may publish an outbox row than wrote it.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        loop: IOLoop,
        *,
        window: int,
        instrumentation: MessagingInstrumentation,
        clock: Clock,
        user_id: str | None = None,
    ) -> None:
        self.blocked = False
        self.ready = False
        self.idle = threading.Event()
        self.idle.set()
        self._loop = loop
        self._instrumentation = instrumentation
        self._clock = clock
        self._user_id = user_id
        self._size = min(window, HARD_CAP)
        self._window = ConfirmWindow(window, self._group_settled)
        self._incoming: deque[tuple[Sequence[Publication], Receipt]] = deque()
        self._ended = False
        self._reopening = False
        self._handed = 0
        self._unroutable: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._channel: Any = None
        self._backoff = Backoff(first=0.05, maximum=10)
        self._connection = connection
        connection.opened = self._on_connection
        connection.lost = self._on_connection_lost

    def publish(self, publications: Sequence[Publication]) -> Receipt:
        """Hand over a batch, in order; never blocks. Without a connection every key fails as LOST immediately."""
        receipt = Receipt([publication.key for publication in publications])
        if not publications:
            return receipt
        with self._lock:
            accepted = self.ready and not self._ended
            if accepted:
                self._handed += len(publications)
                self.idle.clear()
                self._incoming.append((publications, receipt))
        if accepted:
            self._loop.add_callback_threadsafe(self._take)
        else:
            for publication in publications:
                receipt.fail(publication.key, Failure.LOST)
        return receipt

    @property
    def room(self) -> int:
        """How many publications can be sent without queueing; 0 while blocked, unconnected or the window is full."""
        return max(0, self._size - self._handed) if self.ready and not self.blocked else 0

    def end(self) -> None:
        """The I/O thread ends: every publication that is not settled fails as LOST, as do later ones."""
        with self._lock:
            self._ended = True
        self._on_lost()
        self._take()

    def measure(self) -> None:
        """Report the numbers of unconfirmed and waiting publications."""
        self._instrumentation.window(unconfirmed=self._window.unconfirmed, waiting=self._window.waiting)

    def refuse(self) -> None:
        """Accept nothing more, because the connection is about to be closed."""
        self.ready = False

    def _take(self) -> None:
        while self._incoming:
            self._window.add(*self._incoming.popleft())
        if self.ready:
            self._write()
        elif not self._reopening:
            self._done(self._window.lose())

    def _write(self) -> None:
        if self.blocked or not self.ready or not self._window.waiting:
            return
        due = self._window.due()
        if not due:
            return
        observer = self._instrumentation.publishing(due)
        with self._channel.connection.joined():
            for publication in due:
                self._channel.basic_publish(
                    publication.exchange,
                    publication.routing_key,
                    publication.body,
                    to_pika(publication.properties, user_id=self._user_id),
                    mandatory=True,
                )
        self._window.written(len(due), observer, self._clock.monotonic())

    def _group_settled(
        self, observer: PublishObserver, confirmed: int, failures: Counter[Failure], written_at: float
    ) -> None:
        seconds = self._clock.monotonic() - written_at
        observer.settled(confirmed=confirmed, failures=failures, seconds=seconds)
        if self._unroutable:  # one line per batch, not per message: a missing binding affects all
            log.warning("publish.returned", extra={"messages": dict(self._unroutable)})
            self._unroutable.clear()

    def _done(self, count: int) -> None:
        with self._lock:
            self._handed -= count
            if self._handed == 0:
                self.idle.set()

    def _on_connection(self, connection: SelectConnection) -> None:
        connection.add_on_connection_blocked_callback(lambda *_: self._on_blocked(blocked=True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._on_blocked(blocked=False))
        self._on_blocked(blocked=False)
        connection.channel(on_open_callback=self._on_channel)

    def _on_blocked(self, *, blocked: bool) -> None:
        if blocked != self.blocked:
            log.warning("broker.blocked" if blocked else "broker.unblocked")
        self.blocked = blocked
        self._instrumentation.blocked(blocked=blocked)
        self._write()

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._on_confirming)

    def _on_confirming(self, _frame: object) -> None:
        self.ready, self._reopening = True, False
        self._write()  # what waited while a refused publication cost the channel

    def _on_confirm(self, frame: Any) -> None:
        self._backoff.reset()
        before = self._window.unconfirmed
        acked = isinstance(frame.method, pika.spec.Basic.Ack)
        self._window.settle(frame.method.delivery_tag, multiple=frame.method.multiple, acked=acked)
        self._done(before - self._window.unconfirmed)
        self._write()

    def _on_return(self, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self._unroutable[f"{method.exchange}/{method.routing_key}"] += 1
        if not self._window.returned(method.exchange, method.routing_key, from_pika(properties), body):
            log.error("publish.return_unknown", extra={"exchange": method.exchange, "routing_key": method.routing_key})

    def _on_channel_closed(self, _channel: object, reason: BaseException) -> None:
        connection = self._connection.current
        if connection is not None and connection.is_open:
            self._on_refused(refusal(reason))
            pause = self._backoff.next()
            log.error("publish.channel_closed", extra={"error": repr(reason), "seconds": round(pause, 3)})
            self._loop.call_later(pause, lambda: self._reopen(connection))
        else:
            self._on_lost()

    def _on_refused(self, refused: Refusal | None) -> None:
        """One publication cost the channel: only that one fails, as soon as it is known which one it is."""
        if refused is None:
            self._on_lost()
        else:
            self.ready, self._reopening = False, True
            self._done(self._window.refused(refused.failure, size_bytes=refused.size_bytes))

    def _reopen(self, connection: SelectConnection) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self._on_channel)

    def _on_connection_lost(self) -> None:
        self._on_lost()
        if self.blocked:
            self._on_blocked(blocked=False)

    def _on_lost(self) -> None:
        self.ready = self._reopening = False
        self._done(self._window.lose())
