# SPDX-License-Identifier: Apache-2.0
"""Consumes through pika: one channel per queue, a prefetch, and multiple-acks."""

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

_CANCELS_BEFORE_CLOSING = 3
"""The channel stays open after its last ack for as many times the duration of the cancel."""
_MAX_CLOSING_DELAY_SECONDS = 2.0
_MAX_CANCEL_DELAY_SECONDS = 0.2
"""The longest time for which a cancel waits for the deliveries that the last ack allowed."""


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
        suspended: bool = False,
        optional: bool = False,
    ) -> None:
        self.subscribed = False
        self.suspended = suspended
        self.optional = optional
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
        self._delivered_tag = self._acked_tag = self._deferred_ack_tag = 0
        self._cancel_sent_at = self._cancel_seconds = self._last_ack_at = 0.0
        self._last_tag = 0
        """For a cancelled ordered consumer: its channel is closed after the ack of this tag."""
        self._reopening = Reopening(clock)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._buffer.queue

    @property
    def drained(self) -> bool:
        """True when cancelled and everything that had arrived was received (or its channel is closed)."""
        return self._cancelled and not len(self._buffer)

    @property
    def closing_delay_seconds(self) -> float:
        """Seconds for which the channel must stay open, so that the broker does not lose acks sent after the cancel.

        The broker returns what was in flight at the cancel with a command for each delivery. While 32 commands of a
        channel are pending it keeps acks in the memory of the channel (``rabbit_fifo_client``: ``SOFT_LIMIT``,
        ``unsent_commands``), and loses them when the channel closes. The cancel went through the same log as these
        commands, so the time that it took says how long they take.
        """
        if not self._last_ack_at:
            return 0.0
        delay = min(_MAX_CLOSING_DELAY_SECONDS, _CANCELS_BEFORE_CLOSING * self._cancel_seconds)
        return max(0.0, self._last_ack_at + delay - self._clock.monotonic())

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
        return self._buffer.take(
            limit=limit,
            limit_bytes=limit_bytes,
            linger_seconds=linger_seconds,
            timeout_seconds=timeout_seconds,
            collect_seconds=collect_seconds,
        )

    def ack(self, batch: Batch) -> None:
        """See ``broker.Consumer``."""
        if batch.epoch == self._buffer.epoch and batch.deliveries:
            self._loop.add_callback_threadsafe(partial(self._ack, batch.epoch, batch.deliveries[-1].tag))

    def cancel(self) -> None:
        """See ``broker.Consumer``."""
        self._loop.add_callback_threadsafe(self._cancel)

    def suspend(self) -> None:
        """See ``broker.Consumer``."""
        self._loop.add_callback_threadsafe(self._suspend)

    def resume(self) -> None:
        """See ``broker.Consumer``."""
        self._loop.add_callback_threadsafe(self._resume)

    def subscribe(self) -> None:
        """Open a channel and consume, unless cancelled or suspended. Called in the I/O thread.

        Does nothing when there is a channel: a new connection, a new consumer and the end of a back-off all call this.
        """
        connection = self._connection.current
        if self._cancelling or self.suspended or self._opening or self._channel is not None:
            return
        if connection is not None and connection.is_open:
            self._opening = True
            connection.channel(on_open_callback=self._on_channel)

    def lost(self) -> None:
        """The channel or its connection is closed. Called in the I/O thread."""
        self.subscribed = False
        self._opening = False
        self._channel = None
        self._tag = ""
        self._delivered_tag = self._acked_tag = self._deferred_ack_tag = 0
        self._last_ack_at = 0.0
        self._buffer.renew()
        if self._cancelling:
            self._end()

    def close_ordered_channel(self) -> None:
        """Close the channel of an ordered consumer: the broker requeues what is unacknowledged.

        Called in the I/O thread.
        """
        if self._ordered:
            self._close_channel()

    def _close_channel(self) -> None:
        """Close the channel without a cancel.

        pika would cancel first, and a cancel lets the next consumer begin while this one has unacknowledged messages.
        Without a cancel, the broker (``rabbit_fifo``, the queue's state machine) requeues them and starts the next
        consumer in the same step.
        """
        channel = self._channel
        if channel is not None and channel.is_open:
            consumers, channel._consumers = channel._consumers, {}  # noqa: SLF001
            channel.close()
            channel._consumers = consumers  # noqa: SLF001

    def end(self) -> None:
        """The I/O thread ends: nothing more will arrive, even if the consumer was not cancelled."""
        self._cancelling = True
        self.lost()

    def _on_channel(self, channel: Any) -> None:
        self._opening = False
        self._channel = channel
        epoch = self._buffer.renew()
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        if self.suspended:
            self._close_channel()
            return
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: self._consume(channel, epoch))

    def _consume(self, channel: Any, epoch: int) -> None:
        if epoch == self._buffer.epoch and not (self._cancelling or self.suspended):
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
                text(properties.user_id),
            )
        )

    def _ack(self, epoch: int, tag: int) -> None:
        if epoch != self._buffer.epoch or self._channel is None or not self._channel.is_open:
            return
        if self._cancelling and not self._cancelled:
            self._deferred_ack_tag = tag
        else:
            self._send_ack(tag)
            self._close_channel_when_done()

    def _suspend(self) -> None:
        self.suspended = True
        self._close_channel()

    def _resume(self) -> None:
        self.suspended = False
        self.subscribe()

    def _cancel(self) -> None:
        if self._cancelling:
            return
        self._cancelling = True
        if self._ordered:
            self._last_tag = self._buffer.stop()
            self._cancelled = True
            self._close_channel_when_done()
        elif self._tag:
            self._cancel_when_quiet(self._clock.monotonic() + _MAX_CANCEL_DELAY_SECONDS)
        else:
            self._end()

    def _close_channel_when_done(self) -> None:
        if self._ordered and self._cancelled and self._acked_tag >= self._last_tag:
            self.close_ordered_channel()

    def _cancel_when_quiet(self, deadline: float) -> None:
        """Cancel when no delivery is in flight, or at the deadline. Acks are deferred until the broker has cancelled.

        Each ack lets the broker send more, and a quorum queue requeues what it sends during a cancel, marked as
        redelivered although no consumer received it (https://github.com/rabbitmq/rabbitmq-server/issues/3729). Once a
        full prefetch is unacknowledged, the broker sends nothing more. When that does not happen, the queue is short;
        then the deferred ack is sent before the cancel, because a later one may get lost (``closing_delay_seconds``).
        """
        if self._cancelled or self._channel is None or not self._channel.is_open:
            return
        full = self._delivered_tag - self._acked_tag >= self._prefetch
        if not full and self._clock.monotonic() < deadline:
            self._loop.call_later(0.01, partial(self._cancel_when_quiet, deadline))
            return
        if not full:
            self._send_deferred_ack()
        self._cancel_sent_at = self._clock.monotonic()
        self._channel.basic_cancel(self._tag, callback=self._on_cancelled)
        # pika would reject deliveries still in flight, and the broker would deliver them again: accept them instead.
        self._channel._cancelled.discard(self._tag)  # noqa: SLF001

    def _on_cancelled(self, _frame: object) -> None:
        self._cancel_seconds = self._clock.monotonic() - self._cancel_sent_at
        log.info("queue.cancelled", extra={"queue": self.queue, "held": self._delivered_tag - self._acked_tag})
        self._end()

    def _end(self) -> None:
        self._cancelled = True
        self._send_deferred_ack()
        self._buffer.wake()

    def _send_deferred_ack(self) -> None:
        tag, self._deferred_ack_tag = self._deferred_ack_tag, 0
        if tag and self._channel is not None and self._channel.is_open:
            self._send_ack(tag)

    def _send_ack(self, tag: int) -> None:
        self._acked_tag = tag
        self._channel.basic_ack(tag, multiple=True)
        if self._cancelled:
            self._last_ack_at = self._clock.monotonic()

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
        if not (self._cancelling or self.suspended) and connection is not None and connection.is_open:
            pause = self._reopening.pause()
            extra = {"queue": self.queue, "error": repr(reason), "seconds": round(pause, 3)}
            log.log(logging.INFO if self.optional else logging.ERROR, "queue.channel_closed", extra=extra)
            self._loop.call_later(pause, self.subscribe)
