# SPDX-License-Identifier: Apache-2.0
"""Reconnection, and the failure of the I/O thread."""

from collections.abc import Callable
from typing import Any

import pytest
from pika import URLParameters

from local.eventually import eventually
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.rabbitmq import connection as connection_module
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.rabbitmq.connection import ReconnectingConnection


class Loop:
    """Records the delays that are requested."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def call_later(self, seconds: float, _action: Callable[[], None]) -> None:
        self.pauses.append(seconds)


class Time:
    """A replacement for the module ``time``."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def pauses(monkeypatch: pytest.MonkeyPatch, *lives: float) -> list[float]:
    """The delays after connections that lasted this many seconds."""
    time, loop = Time(), Loop()
    monkeypatch.setattr(connection_module, "time", time)
    subject = ReconnectingConnection("consume", URLParameters("amqp://127.0.0.1"), loop, MessagingInstrumentation())  # type: ignore[arg-type]
    connection: Any = object()
    for life in lives:
        subject._on_open(connection)
        time.now += life
        subject._on_closed(connection, ConnectionError())
    return loop.pauses


def test_connections_that_end_at_once_come_back_ever_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pauses(monkeypatch, *[0.5] * 12)
    assert found[0] <= 0.2
    assert all(1 <= pause <= 10 for pause in found[-3:])


def test_a_connection_that_lasted_comes_back_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pauses(monkeypatch, *[0.5] * 12, 60)[-1] <= 0.2


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
