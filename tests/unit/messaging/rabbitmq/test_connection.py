# SPDX-License-Identifier: Apache-2.0
"""Reconnection, and the failure of the I/O thread."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pika import URLParameters

from local.eventually import eventually
from orderflow.messaging.clock import ManualClock, SystemClock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.rabbitmq.connection import ReconnectingConnection
from orderflow.messaging.rabbitmq.consumer import RabbitConsumer


class Loop:
    """Records the delays that are requested."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def call_later(self, seconds: float, _action: Callable[[], None]) -> None:
        self.pauses.append(seconds)


REFUSED = None


def pauses(*lives: float | None) -> list[float]:
    """The pauses after connections that lived so many seconds, or were refused."""
    clock, loop = ManualClock(), Loop()
    parameters = URLParameters("amqp://127.0.0.1")
    subject = ReconnectingConnection("consume", parameters, loop, MessagingInstrumentation(), clock)  # type: ignore[arg-type]
    connection: Any = object()
    for life in lives:
        if life is not REFUSED:
            subject._on_open(connection)
            clock.advance(life)
        subject._on_closed(connection, ConnectionError())
    return loop.pauses


def test_connections_that_end_at_once_come_back_ever_more_slowly() -> None:
    """Each costs a delivery count of all that was prefetched."""
    found = pauses(*[0.5] * 12)
    assert found[0] <= 0.2
    assert all(1 <= pause <= 10 for pause in found[-3:])
    assert max(max(pauses(*[0.5] * 12)[6:]) for _ in range(20)) > 2


def test_refusals_between_them_change_nothing_about_that() -> None:
    assert max(max(pauses(*[0.5, REFUSED] * 12)[12::2]) for _ in range(20)) > 2


def test_a_connection_that_lasted_comes_back_within_tens_of_milliseconds() -> None:
    assert pauses(*[0.5] * 12, 60)[-1] <= 0.05


def test_a_broker_that_is_away_is_asked_quickly_at_first_and_every_two_seconds_in_the_end() -> None:
    found = pauses(60, *[REFUSED] * 30)
    assert found[0] <= 0.05
    assert sum(found[:5]) <= 1.6
    assert all(0.2 <= pause <= 2 for pause in found[-20:])
    assert pauses(60, *[REFUSED] * 30, 60)[-1] <= 0.05


def channel_pauses(*, consumes: bool) -> list[float]:
    """The pauses of a consumer whose channel is closed again and again, after it consumed or before."""
    loop: Any = Loop()
    connection: Any = SimpleNamespace(current=SimpleNamespace(is_open=True))
    consumer = RabbitConsumer("q", prefetch=1, ordered=False, connection=connection, loop=loop, clock=ManualClock())
    for _ in range(12):
        consumer._channel = channel = SimpleNamespace(is_open=True)
        if consumes:
            consumer._on_consuming(None)
        consumer._on_channel_closed(channel, ConnectionError())
    found: list[float] = loop.pauses
    return found


def test_a_channel_that_is_closed_soon_after_it_consumed_comes_back_ever_more_slowly() -> None:
    assert max(max(channel_pauses(consumes=True)[6:]) for _ in range(20)) > 2


def test_a_channel_that_never_consumed_is_tried_again_within_two_seconds() -> None:
    assert all(pause <= 2 for pause in channel_pauses(consumes=False))


def test_when_the_io_thread_fails_the_watchdog_sees_it_at_its_next_check() -> None:
    broker = RabbitMQBroker(
        "amqp://127.0.0.1:1",
        window=1,
        instrumentation=MessagingInstrumentation(),
        clock=SystemClock(),
        connection_name="test",
    )
    broker.start()

    def broken() -> None:
        raise RuntimeError("bug")

    broker._loop.add_callback_threadsafe(broken)
    eventually(lambda: broker.last_tick == float("-inf"))
    assert not broker.ready
