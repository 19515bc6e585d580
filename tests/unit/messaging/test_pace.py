# SPDX-License-Identifier: Apache-2.0
"""What a loop collects while there is work all the time, and that a single message does not wait."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from orderflow.messaging.broker import Batch
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.consume.batch_processor import BatchProgress
from orderflow.messaging.consume.loop import BatchLimits, ConsumerLoop
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.pace import Pace
from tests.builders import a_retry_policy
from tests.rigs.scripted_broker import ScriptedPublisher, deliver

LINGER = 0.05


def test_the_next_transaction_begins_after_the_pace_and_at_once_after_a_rest() -> None:
    clock = ManualClock()
    pace = Pace(LINGER, clock=clock)
    assert pace.remaining == 0
    pace.begin()
    clock.advance(0.02)
    assert pace.remaining == pytest.approx(0.03)
    clock.advance(1)
    assert pace.remaining == 0


@pytest.mark.parametrize(
    ("taken", "remaining"),
    [
        pytest.param(0.01, 0.04, id="short: the pace"),
        pytest.param(0.03, 0.09, id="long: three times what it took, so that it takes a quarter of the time"),
        pytest.param(0.15, 0.05, id="very long: four times the pace at most"),
        pytest.param(60, 0, id="a database that hung: at once"),
    ],
)
def test_after_a_transaction_that_took_long_more_is_collected(taken: float, remaining: float) -> None:
    clock = ManualClock()
    pace = Pace(LINGER, clock=clock)
    pace.begin()
    clock.advance(taken)
    pace.end()
    assert pace.remaining == pytest.approx(remaining)


def test_the_end_of_nothing_changes_nothing() -> None:
    pace = Pace(LINGER, clock=ManualClock())
    pace.end()
    assert pace.remaining == 0


class Arrivals:
    """A consumer whose messages arrive at given times, one each; it records what the loop asked for."""

    queue = "work"
    drained = True

    def __init__(self, clock: ManualClock, *times: float) -> None:
        self._clock = clock
        self._times = list(times)
        self.batches: list[tuple[float, int]] = []
        """When each batch was complete, and how many messages it has."""
        self.empty: list[float] = []
        self.ended: Callable[[], None] = lambda: None

    def receive(
        self,
        *,
        limit: int,
        limit_bytes: int,
        linger_seconds: float,
        timeout_seconds: float,
        collect_seconds: float = 0,
    ) -> Batch | None:
        now = self._clock.monotonic()
        if not self._times:
            self.ended()
        if not self._times or max(now, self._times[0]) > now + timeout_seconds:
            self.empty.append(now)
            self._clock.advance(timeout_seconds)
            return None
        until = max(max(now, self._times[0]) + linger_seconds, now + collect_seconds)
        taken = [time for time in self._times if time <= until]
        self._times = self._times[len(taken) :]
        self._clock.advance(until - now)
        self.batches.append((round(until, 3), len(taken)))
        return Batch(self.queue, 1, [deliver(tag=position) for position, _ in enumerate(taken)])

    def ack(self, batch: Batch) -> None: ...

    def cancel(self) -> None: ...

    def suspend(self) -> None: ...

    def resume(self) -> None: ...


def run(*times: float) -> Arrivals:
    """A loop, whose transactions take no time, over messages that arrive at these times."""
    clock = ManualClock()
    consumer = Arrivals(clock, *times)

    class Processor:
        units_of_work = SimpleNamespace(
            transaction=lambda: nullcontext(SimpleNamespace(now=None, execute=lambda *_: [])),
            close=lambda: None,
            delete_confirmed=lambda: None,
            outbox=SimpleNamespace(wait=lambda _: True),
        )
        codec: Any = SimpleNamespace(publishers=None)
        inbox = SimpleNamespace(queue="work")

        def __call__(self, deliveries: Sequence[object], *_: object, **__: object) -> BatchProgress:
            return BatchProgress()

    loop = ConsumerLoop(
        consumer=consumer,
        publisher=ScriptedPublisher(),
        processor=Processor(),  # type: ignore[arg-type]
        policy=a_retry_policy(),
        instrumentation=MessagingInstrumentation(),
        clock=clock,
        limits=BatchLimits(messages=250, size_bytes=1 << 20, linger_seconds=LINGER),
    )
    consumer.ended = loop.stop
    loop.run()
    return consumer


def test_a_single_message_waits_no_longer_than_a_burst_takes_to_arrive() -> None:
    assert run(1.0, 2.0, 3.0).batches == [(1.005, 1), (2.005, 1), (3.005, 1)]


def test_messages_that_keep_arriving_share_transactions() -> None:
    """One every 10 ms: without a pace each would have a transaction of its own."""
    batches = run(*(1 + number / 100 for number in range(100))).batches
    assert sum(size for _, size in batches) == 100
    assert len(batches) <= 22
    assert all(later - earlier <= LINGER + 0.016 for (earlier, _), (later, _) in pairwise(batches))
