# SPDX-License-Identifier: Apache-2.0
import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Self, cast

import pytest

from local.eventually import eventually
from orderflow.messaging.circuit_breaker import PROBE_SECONDS
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.effects import EffectRunner
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.service import Transaction, UnitOfWork
from tests.rigs.effects import Circuits

SILENCE = "no response"


class Transactions:
    """Counts commits; each item of ``failures`` fails one."""

    def __init__(self) -> None:
        self.commits = 0
        self.failures: list[Exception] = []
        self.closed = False
        self.outbox = self

    @contextmanager
    def transaction(self) -> Generator[object]:
        yield object()
        if self.failures:
            raise self.failures.pop(0)
        self.commits += 1

    def delete_confirmed(self) -> None: ...

    def wait(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class Sped(SystemClock):
    """The machine's clock, put forward by a test."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class WordEffect:
    """Tasks are words: ``hang`` waits for ever, ``crash`` raises, ``poison`` cannot be recorded, others are echoed.

    While ``away`` is set there is no response.
    """

    def __init__(self, *words: str) -> None:
        self.due = deque(words)
        self.recorded: list[tuple[str, str]] = []
        self.groups: list[int] = []
        self.limits: list[int] = []
        self.open = 0
        self.most_open = 0
        self.connected = 0
        self.hold = threading.Event()
        self.claim_error: Exception | None = None
        self.away = False
        self.asked: list[str] = []
        self.silent: list[str] = []
        self.resumed = 0

    def resources(self) -> AbstractAsyncContextManager[object]:
        return self._connection()

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[None]:
        self.connected += 1
        yield
        self.connected -= 1

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> Sequence[str]:
        if self.claim_error:
            raise self.claim_error
        self.limits.append(limit)
        return [self.due.popleft() for _ in range(min(limit, len(self.due)))]

    async def perform(self, task: str) -> str:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.asked.append(task)
        try:
            if task == "crash":
                raise ZeroDivisionError
            while task == "hang" or self.hold.is_set():
                await asyncio.sleep(0.002)
            return SILENCE if self.away else task.upper()
        finally:
            self.open -= 1

    def responded(self, result: str) -> bool:
        return result != SILENCE

    def record_without_response(self, transaction: UnitOfWork, pairs: Sequence[tuple[str, str]]) -> None:
        self.silent += [task for task, _ in pairs]
        self.due.extend(task for task, _ in pairs)

    def resume(self, transaction: Transaction) -> None:
        self.resumed += 1

    def record(self, transaction: UnitOfWork, pairs: Sequence[tuple[str, str]]) -> None:
        if any(task == "poison" for task, _ in pairs):
            raise ZeroDivisionError
        self.groups.append(len(pairs))
        self.recorded += pairs


class Running:
    """The effects in their thread; leaving the context stops them and checks that they ended."""

    def __init__(self, effect: WordEffect, **options: Any) -> None:
        self.effect = effect
        self.work = Transactions()
        self.clock = Sped()
        self.reports = Circuits()
        values: dict[str, Any] = {"concurrency": 10, "lease_seconds": 60, "interval_seconds": 0.01, **options}
        self.runner = EffectRunner[str, str](
            "words",
            effect,
            cast("UnitOfWorkFactory", self.work),
            clock=self.clock,
            instrumentation=self.reports,
            **values,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.runner.run()
        except BaseException as error:
            self.error = error


def test_what_is_due_is_performed_and_recorded_together() -> None:
    effect = WordEffect(*"abc")
    with Running(effect, linger_seconds=0.2) as running:
        eventually(lambda: len(effect.recorded) == 3)
    assert sorted(effect.recorded) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert effect.groups == [3]
    assert (effect.connected, running.work.closed, running.error) == (0, True, None)


def test_waking_begins_calls_without_waiting_for_the_next_claim() -> None:
    effect = WordEffect()
    with Running(effect, interval_seconds=60) as running:
        effect.due.append("a")
        running.runner.wake()
        eventually(lambda: effect.recorded == [("a", "A")])


def test_no_more_calls_are_open_than_allowed_and_none_is_claimed_beyond() -> None:
    effect = WordEffect(*(str(number) for number in range(100)))
    effect.hold.set()
    with Running(effect, concurrency=7):
        eventually(lambda: effect.open == 7)
        assert len(effect.due) == 93
        effect.hold.clear()
        eventually(lambda: len(effect.recorded) == 100)
    assert effect.most_open == 7
    assert max(effect.limits) == 7


def test_results_survive_a_database_that_is_away() -> None:
    effect = WordEffect("a")
    effect.hold.set()
    with Running(effect) as running:
        eventually(lambda: effect.open)
        running.work.failures = [DatabaseUnavailable("away"), DatabaseUnavailable("away")]
        effect.hold.clear()
        eventually(lambda: effect.recorded and not running.work.failures)
        eventually(lambda: running.work.commits > 2)
    assert set(effect.recorded) == {("a", "A")}


def test_a_call_that_crashes_is_left_to_its_lease_and_frees_its_place() -> None:
    effect = WordEffect("crash", "crash", "a")
    with Running(effect, concurrency=1):
        eventually(lambda: effect.recorded == [("a", "A")])


def test_a_result_that_cannot_be_recorded_does_not_take_the_others_with_it() -> None:
    effect = WordEffect("a", "b", "poison", "c")
    with Running(effect, linger_seconds=0.1):
        eventually(lambda: len(effect.recorded) == 3)
    assert Counter(task for task, _ in effect.recorded) == Counter("abc")


def test_stopping_finishes_the_calls_in_flight_and_claims_nothing_more() -> None:
    effect = WordEffect("a")
    effect.hold.set()
    with Running(effect, interval_seconds=60) as running:
        running.runner.wake()
        eventually(lambda: effect.open)
        running.runner.stop()
        effect.due.append("late")
        effect.hold.clear()
    assert effect.recorded == [("a", "A")]
    assert list(effect.due) == ["late"]


def test_stopping_waits_for_a_call_only_so_long() -> None:
    effect = WordEffect("hang", "a")
    with Running(effect, drain_seconds=0.05):
        eventually(lambda: effect.recorded == [("a", "A")])
    assert (effect.open, effect.connected) == (0, 0)


def test_giving_up_does_not_wait_at_all() -> None:
    effect = WordEffect("hang")
    with Running(effect, drain_seconds=60) as running:
        eventually(lambda: effect.open)
        running.runner.give_up()
        running.join()
    assert effect.open == 0


def test_a_claim_that_raises_ends_the_loop_with_its_error() -> None:
    effect = WordEffect()
    effect.claim_error = ZeroDivisionError()
    with Running(effect) as running:
        running.join()
    assert isinstance(running.error, ZeroDivisionError)
    assert running.work.closed


def test_resources_that_cannot_be_opened_end_the_loop_with_their_error() -> None:
    class Broken(WordEffect):
        @asynccontextmanager
        async def _connection(self) -> AsyncGenerator[None]:
            raise OSError("no")
            yield

    with Running(Broken()) as running:
        running.join()
    assert isinstance(running.error, RuntimeError)
    assert isinstance(running.error.__cause__, OSError)
    with pytest.raises(OSError, match="no"):
        raise running.error.__cause__


def test_progress_is_seen_while_there_is_nothing_to_do() -> None:
    effect = WordEffect()
    with Running(effect) as running:
        seen = running.runner.last_progress
        eventually(lambda: running.runner.last_progress > seen)


def test_calls_are_suspended_without_responses_and_resume_after_the_first_response() -> None:
    effect = WordEffect(*"abc")
    effect.away = True
    with Running(effect) as running:
        eventually(lambda: running.reports.states == [False, True])
        assert effect.recorded == [(word, SILENCE) for word in "abc"][: 3 - len(effect.silent)]
        effect.due.extend("defgh")
        for probes in range(1, 5):
            silent = len(effect.silent)
            running.clock.ahead += PROBE_SECONDS
            eventually(lambda silent=silent: len(effect.silent) == silent + 1)  # type: ignore[misc]
            assert len(effect.asked) == 3 + probes, "one call a second"
        waiting = len(effect.due)
        effect.away = False
        running.clock.ahead += PROBE_SECONDS
        eventually(lambda: len([result for _, result in effect.recorded if result != SILENCE]) == waiting)
    assert running.reports.states == [False, True, False]
    assert effect.resumed == 1


def test_what_waits_is_resumed_once_although_the_database_is_away() -> None:
    effect = WordEffect(*"abc")
    effect.away = True
    with Running(effect) as running:
        eventually(lambda: running.reports.states == [False, True])
        effect.due.append("d")
        running.work.failures = [DatabaseUnavailable("away")] * 2
        effect.away = False
        running.clock.ahead += PROBE_SECONDS
        eventually(lambda: not running.work.failures and effect.due == deque())
    assert effect.resumed >= 1
    assert ("d", "D") in effect.recorded
