# SPDX-License-Identifier: Apache-2.0
import threading
from types import SimpleNamespace

import pytest

from orderflow.messaging.broker import Batch
from orderflow.messaging.rabbitmq import delivery_buffer
from orderflow.messaging.rabbitmq.delivery_buffer import DeliveryBuffer
from tests.rigs.scripted_broker import deliver


class WatchedEvent(threading.Event):
    """Shows when a thread has begun to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self._awaited.set()
        return super().wait(timeout)

    def until_awaited(self) -> None:
        assert self._awaited.wait(30)


def watch(buffer: DeliveryBuffer) -> tuple[WatchedEvent, WatchedEvent]:
    """The buffer's waits for a first delivery and for a full batch."""
    some, full = WatchedEvent(), WatchedEvent()
    buffer._some, buffer._full = some, full
    return some, full


class TakingThread:
    """Calls ``take`` in a thread of its own."""

    def __init__(
        self, buffer: DeliveryBuffer, *, limit: int, linger_seconds: float = 0, collect_seconds: float = 0
    ) -> None:
        self.batch: Batch | None = None
        self._arguments = {"limit": limit, "linger_seconds": linger_seconds, "collect_seconds": collect_seconds}
        self._buffer = buffer
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.batch = self._buffer.take(limit_bytes=10**6, timeout_seconds=60, **self._arguments)  # type: ignore[arg-type]

    def tags(self) -> list[int] | None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return [delivery.tag for delivery in self.batch.deliveries] if self.batch else None


def filled(count: int, *, body: bytes = b"x") -> DeliveryBuffer:
    buffer = DeliveryBuffer("work")
    buffer.renew()
    for tag in range(1, count + 1):
        buffer.append(deliver(tag=tag, body=body))
    return buffer


def take(buffer: DeliveryBuffer, *, limit: int = 250, limit_bytes: int = 10**6) -> list[int] | None:
    batch = buffer.take(limit=limit, limit_bytes=limit_bytes, linger_seconds=0, timeout_seconds=0)
    return [delivery.tag for delivery in batch.deliveries] if batch else None


def test_nothing_comes_out_of_an_empty_buffer() -> None:
    assert take(filled(0)) is None


def test_a_batch_is_bounded_by_number_and_by_bytes() -> None:
    buffer = filled(10, body=b"x" * 100)
    assert take(buffer, limit=3) == [1, 2, 3]
    assert take(buffer, limit_bytes=150) == [4, 5]
    assert take(buffer, limit_bytes=200) == [6, 7]
    assert take(buffer, limit_bytes=1) == [8]
    assert take(buffer) == [9, 10]
    assert len(buffer) == 0


def test_the_first_delivery_wakes_the_worker() -> None:
    buffer = filled(0)
    some, _ = watch(buffer)
    taking = TakingThread(buffer, limit=10)
    some.until_awaited()
    buffer.append(deliver(tag=1))
    assert taking.tags() == [1]


def test_a_full_batch_ends_the_linger() -> None:
    buffer = filled(1)
    _, full = watch(buffer)
    taking = TakingThread(buffer, limit=3, linger_seconds=60)
    full.until_awaited()
    buffer.append(deliver(tag=2))
    buffer.append(deliver(tag=3))
    assert taking.tags() == [1, 2, 3]


def test_waking_ends_a_wait_without_deliveries() -> None:
    buffer = filled(0)
    some, _ = watch(buffer)
    taking = TakingThread(buffer, limit=1)
    some.until_awaited()
    buffer.wake()
    assert taking.tags() is None


def test_a_new_epoch_drops_what_the_old_one_left() -> None:
    buffer = filled(3)
    assert buffer.renew() == 2
    assert take(buffer) is None
    buffer.append(deliver(tag=1))
    batch = buffer.take(limit=9, limit_bytes=9, linger_seconds=0, timeout_seconds=0)
    assert batch is not None and batch.epoch == 2


@pytest.mark.parametrize(("late", "waits_for_more"), [(0.0, True), (60.0, False)])
def test_collecting_counts_from_the_call_not_from_the_first_delivery(
    monkeypatch: pytest.MonkeyPatch, *, late: float, waits_for_more: bool
) -> None:
    seconds = 100.0
    monkeypatch.setattr(delivery_buffer, "time", SimpleNamespace(monotonic=lambda: seconds))
    buffer = filled(0)
    some, full = watch(buffer)
    taking = TakingThread(buffer, limit=2, collect_seconds=60)
    some.until_awaited()
    seconds += late
    buffer.append(deliver(tag=1))
    if waits_for_more:
        full.until_awaited()
        buffer.append(deliver(tag=2))
    assert taking.tags() == ([1, 2] if waits_for_more else [1])


def test_an_epoch_that_ends_during_the_linger_does_not_end_the_wait() -> None:
    buffer = filled(1)
    some, full = watch(buffer)
    taking = TakingThread(buffer, limit=2, linger_seconds=60)
    full.until_awaited()
    buffer.renew()
    buffer.wake()  # ends the linger, which finds nothing of the old epoch
    some.until_awaited()
    buffer.append(deliver(tag=7))
    buffer.append(deliver(tag=8))
    assert taking.tags() == [7, 8]


def test_every_delivery_is_taken_once_when_both_sides_are_busy() -> None:
    buffer = filled(0)
    taken: list[int] = []

    def work() -> None:
        while len(taken) < 5000:
            batch = buffer.take(limit=100, limit_bytes=10**6, linger_seconds=0.001, timeout_seconds=30)
            assert batch is not None
            taken.extend(delivery.tag for delivery in batch.deliveries)

    thread = threading.Thread(target=work)
    thread.start()
    template = deliver()
    for tag in range(5000):
        buffer.append(type(template)(tag, "", "", False, template.properties, b"", 0.0))
    thread.join(30)
    assert taken == list(range(5000))
