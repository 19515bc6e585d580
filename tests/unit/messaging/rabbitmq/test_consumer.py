# SPDX-License-Identifier: Apache-2.0
"""The order of acks and the cancel, and how long the channel stays open after them.

The broker loses acks that reach a channel with 32 pending commands when the channel closes before they are handled.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pika

from orderflow.messaging.broker import Batch
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.rabbitmq.consumer import RabbitConsumer

PREFETCH = 4


class Channel:
    """Records what is sent on it, in order. ``confirm_cancel`` confirms the cancel."""

    is_open = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.confirm_cancel: Callable[[object], None] = lambda _frame: None
        self._cancelled: set[str] = set()

    def add_on_close_callback(self, _callback: object) -> None:
        """The channel does not close in these tests."""

    def add_on_cancel_callback(self, _callback: object) -> None:
        """The broker does not cancel in these tests."""

    def basic_qos(self, *, prefetch_count: int, callback: Callable[[object], None]) -> None:
        assert prefetch_count == PREFETCH
        callback(None)

    def basic_consume(self, _queue: str, on_message: Any, *, callback: Callable[[object], None]) -> str:
        self.deliver = on_message
        callback(None)
        return "tag"

    def basic_ack(self, tag: int, *, multiple: bool) -> None:
        assert multiple
        self.sent.append(("ack", tag))

    def basic_cancel(self, _tag: str, *, callback: Callable[[object], None]) -> None:
        self.sent.append(("cancel", 0))
        self.confirm_cancel = callback


class Loop:
    """Runs callbacks immediately, and timers when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def add_callback_threadsafe(self, action: Callable[[], None]) -> None:
        action()

    def call_later(self, _seconds: float, action: Callable[[], None]) -> None:
        self.timers.append(action)


class Rig:
    """A subscribed consumer on a recording channel."""

    def __init__(self) -> None:
        self.clock, self.loop, self.channel = ManualClock(), Loop(), Channel()
        connection = SimpleNamespace(is_open=True, channel=lambda on_open_callback: on_open_callback(self.channel))
        self.consumer = RabbitConsumer(
            "work",
            prefetch=PREFETCH,
            ordered=False,
            connection=SimpleNamespace(current=connection),  # type: ignore[arg-type]
            loop=self.loop,  # type: ignore[arg-type]
            clock=self.clock,
        )
        self.consumer.subscribe()

    def receive(self, *tags: int) -> Batch:
        """The batch of these deliveries."""
        for tag in tags:
            method = SimpleNamespace(delivery_tag=tag, exchange="", routing_key="work", redelivered=False)
            self.channel.deliver(None, method, pika.BasicProperties(), b"")
        batch = self.consumer.receive(limit=10, limit_bytes=10, linger_seconds=0, timeout_seconds=0)
        assert batch is not None
        return batch

    def pass_time(self, seconds: float) -> None:
        """Move the clock, then run the timers."""
        self.clock.advance(seconds)
        timers, self.loop.timers = self.loop.timers, []
        for timer in timers:
            timer()


def test_when_the_queue_is_short_what_was_handled_is_acknowledged_before_the_cancel() -> None:
    rig = Rig()
    batch = rig.receive(1, 2)
    rig.consumer.cancel()
    rig.consumer.ack(batch)
    assert rig.channel.sent == []
    rig.pass_time(0.2)
    assert rig.channel.sent == [("ack", 2), ("cancel", 0)]
    rig.channel.confirm_cancel(None)
    assert rig.channel.sent == [("ack", 2), ("cancel", 0)]
    assert rig.consumer.closing_delay_seconds == 0


def test_a_consumer_with_a_full_prefetch_acknowledges_nothing_until_the_broker_has_cancelled() -> None:
    rig = Rig()
    batch = rig.receive(1, 2, 3, 4)
    rig.consumer.cancel()
    rig.consumer.ack(batch)
    assert rig.channel.sent == [("cancel", 0)]
    rig.channel.confirm_cancel(None)
    assert rig.channel.sent == [("cancel", 0), ("ack", 4)]


def test_after_a_late_ack_the_channel_stays_open_for_three_times_the_duration_of_the_cancel() -> None:
    rig = Rig()
    batch = rig.receive(1)
    rig.consumer.cancel()
    rig.pass_time(0.2)
    rig.clock.advance(0.1)
    rig.channel.confirm_cancel(None)
    rig.clock.advance(1)
    rig.consumer.ack(batch)
    assert rig.channel.sent == [("cancel", 0), ("ack", 1)]
    assert round(rig.consumer.closing_delay_seconds, 6) == 0.3
    rig.clock.advance(0.3)
    assert rig.consumer.closing_delay_seconds == 0


def test_the_channel_stays_open_for_two_seconds_at_most() -> None:
    rig = Rig()
    batch = rig.receive(1)
    rig.consumer.cancel()
    rig.pass_time(0.2)
    rig.clock.advance(60)
    rig.channel.confirm_cancel(None)
    rig.consumer.ack(batch)
    assert rig.consumer.closing_delay_seconds == 2
