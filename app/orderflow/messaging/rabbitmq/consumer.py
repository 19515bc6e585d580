# SPDX-License-Identifier: Apache-2.0
"""Consuming through pika: one channel a queue, a prefetch, and multiple-acks."""

import logging
from functools import partial
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop

from orderflow.messaging.broker import Batch, Delivery
from orderflow.messaging.clock import Clock
from orderflow.messaging.rabbitmq.connection import ReconnectingConnection
from orderflow.messaging.rabbitmq.delivery_buffer import DeliveryBuffer
from orderflow.messaging.rabbitmq.properties import from_pika, text
from orderflow.messaging.rabbitmq.reopening import Reopening

log = logging.getLogger(__name__)

_SETTLING_SECONDS = 0.2
"""Longest wait between the last ack and a cancel for what the broker sends because of that ack."""


class RabbitConsumer:
    """Consumes one queue over a channel of its own on the consume connection."""

    def __init__(
        self,
        queue: str,
        *,
        prefetch: int,
        ordered: bool,
        connection: ReconnectingConnection,
        loop: IOLoop,
        clock: Clock,
    ) -> None:
        self.subscribed = False
        self._buffer = DeliveryBuffer(queue)
        self._prefetch = prefetch
        self._ordered = ordered
        self._connection = connection
        self._loop = loop
        self._clock = clock
        self._channel: Any = None
        self._opening = False
        self._tag = ""
        self._cancelling = False
        self._cancelled = False
        self._delivered_tag = self._acked_tag = self._held_tag = 0
        self._last_tag = 0
        """Of an ordered consumer that was cancelled: the tag after whose ack it leaves."""
        self._reopening = Reopening(clock)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._buffer.queue

    @property
    def drained(self) -> bool:
        """True when cancelled and everything that had arrived was received (or its connection is gone)."""
        return self._cancelled and not len(self._buffer)

    def receive(self, *, limit: int, limit_bytes: int, linger_seconds: float, timeout_seconds: float) -> Batch | None:
        """See ``broker.Consumer``."""
        return self._buffer.take(
            limit=limit, limit_bytes=limit_bytes, linger_seconds=linger_seconds, timeout_seconds=timeout_seconds
        )

    def ack(self, batch: Batch) -> None:
        """See ``broker.Consumer``."""
        if batch.epoch == self._buffer.epoch and batch.deliveries:
            self._loop.add_callback_threadsafe(partial(self._ack, batch.epoch, batch.deliveries[-1].tag))

    def cancel(self) -> None:
        """See ``broker.Consumer``."""
        self._loop.add_callback_threadsafe(self._cancel)

    def subscribe(self) -> None:
        """Open a channel and consume; again after every loss, unless cancelled. Called in the I/O thread.

        Does nothing when there is a channel: a new connection, a new consumer and a back-off that ends may all ask.
        """
        connection = self._connection.current
        if self._cancelling or self._opening or self._channel is not None:
            return
        if connection is not None and connection.is_open:
            self._opening = True
            connection.channel(on_open_callback=self._on_channel)

    def lost(self) -> None:
        """The connection is gone. Called in the I/O thread."""
        self.subscribed = False
        self._opening = False
        self._channel = None
        self._tag = ""
        self._delivered_tag = self._acked_tag = self._held_tag = 0
        self._buffer.renew()
        if self._cancelling:
            self._end()

    def leave(self) -> None:
        """Close the channel of an ordered consumer: what it holds goes back. Called in the I/O thread.

        pika would cancel first, and a cancel lets the next consumer begin while this one still holds messages; the end
        of the channel takes them back in the same step (``rabbit_fifo``, the queue's state machine, does so).
        """
        channel = self._channel
        if self._ordered and channel is not None and channel.is_open:
            consumers, channel._consumers = channel._consumers, {}  # noqa: SLF001
            channel.close()
            channel._consumers = consumers  # noqa: SLF001

    def end(self) -> None:
        """The I/O thread ends: nothing more will come, whether it was cancelled or not."""
        self._cancelling = True
        self.lost()

    def _on_channel(self, channel: Any) -> None:
        self._opening = False
        self._channel = channel
        epoch = self._buffer.renew()
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: self._consume(channel, epoch))

    def _consume(self, channel: Any, epoch: int) -> None:
        if epoch == self._buffer.epoch and not self._cancelling:
            self._tag = channel.basic_consume(self.queue, self._on_message, callback=self._on_consuming)

    def _on_consuming(self, _frame: object) -> None:
        self._reopening.opened()
        self.subscribed = True
        log.info("queue.subscribed", extra={"queue": self.queue})

    def _on_message(self, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self._delivered_tag = method.delivery_tag
        self._buffer.append(
            Delivery(
                method.delivery_tag,
                text(method.exchange) or "",
                text(method.routing_key) or "",
                method.redelivered,
                from_pika(properties),
                body,
                self._clock.monotonic(),
            )
        )

    def _ack(self, epoch: int, tag: int) -> None:
        if epoch != self._buffer.epoch or self._channel is None or not self._channel.is_open:
            return
        if self._cancelling and not self._cancelled:
            self._held_tag = tag
        else:
            self._acked_tag = tag
            self._channel.basic_ack(tag, multiple=True)
            self._leave_when_done()

    def _cancel(self) -> None:
        if self._cancelling:
            return
        self._cancelling = True
        if self._ordered:
            self._last_tag = self._buffer.stop()
            self._cancelled = True
            self._leave_when_done()
        elif self._tag:
            self._cancel_when_quiet(self._clock.monotonic() + _SETTLING_SECONDS)
        else:
            self._end()

    def _leave_when_done(self) -> None:
        if self._ordered and self._cancelled and self._acked_tag >= self._last_tag:
            self.leave()

    def _cancel_when_quiet(self, deadline: float) -> None:
        """Acks wait from now until the broker has cancelled.

        Each makes it send more, and what a quorum queue sends while it cancels goes back to it, marked as redelivered
        although no consumer received it (https://github.com/rabbitmq/rabbitmq-server/issues/3729). This spares a
        consumer that holds a full prefetch.
        """
        if self._cancelled or self._channel is None or not self._channel.is_open:
            return
        full = self._delivered_tag - self._acked_tag >= self._prefetch
        if not full and self._clock.monotonic() < deadline:
            self._loop.call_later(0.01, partial(self._cancel_when_quiet, deadline))
            return
        self._channel.basic_cancel(self._tag, callback=self._on_cancelled)
        # pika would reject what is still on its way, and the broker deliver it again: take it instead.
        self._channel._cancelled.discard(self._tag)  # noqa: SLF001

    def _on_cancelled(self, _frame: object) -> None:
        log.info("queue.cancelled", extra={"queue": self.queue, "held": self._delivered_tag - self._acked_tag})
        self._end()

    def _end(self) -> None:
        self._cancelled = True
        if self._held_tag and self._channel is not None and self._channel.is_open:
            self._channel.basic_ack(self._held_tag, multiple=True)
        self._held_tag = 0
        self._buffer.wake()

    def _on_cancelled_by_broker(self, _frame: object) -> None:
        log.warning("queue.cancelled_by_broker", extra={"queue": self.queue})
        if self._cancelling:
            self._end()
        elif self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _on_channel_closed(self, channel: object, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self.lost()
        connection = self._connection.current
        if not self._cancelling and connection is not None and connection.is_open:
            pause = self._reopening.pause()
            extra = {"queue": self.queue, "error": repr(reason), "seconds": round(pause, 3)}
            log.error("queue.channel_closed", extra=extra)
            self._loop.call_later(pause, self.subscribe)
