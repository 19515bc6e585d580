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
    """Counts commits, and fails as often as it is told."""

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


class Letters:
    """Tasks are words: ``hang`` waits for ever, ``crash`` raises, ``poison`` cannot be recorded, others are echoed.

    While ``away`` is set nobody answers.
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

    def __init__(self, letters: Letters, **options: Any) -> None:
        self.letters = letters
        self.work = Transactions()
        self.clock = Sped()
        self.reports = Circuits()
        values: dict[str, Any] = {"concurrency": 10, "lease_seconds": 60, "interval_seconds": 0.01, **options}
        self.effecting = EffectRunner[str, str](
            "letters",
            letters,
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
        self.effecting.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.effecting.run()
        except BaseException as error:
            self.error = error


def test_what_is_due_is_performed_and_recorded_together() -> None:
    letters = Letters(*"abc")
    with Running(letters, linger_seconds=0.2) as running:
        eventually(lambda: len(letters.recorded) == 3)
    assert sorted(letters.recorded) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert letters.groups == [3]
    assert (letters.connected, running.work.closed, running.error) == (0, True, None)


def test_waking_begins_calls_without_waiting_for_the_next_look() -> None:
    letters = Letters()
    with Running(letters, interval_seconds=60) as running:
        letters.due.append("a")
        running.effecting.wake()
        eventually(lambda: letters.recorded == [("a", "A")])


def test_no_more_calls_are_open_than_allowed_and_none_is_claimed_beyond() -> None:
    letters = Letters(*(str(number) for number in range(100)))
    letters.hold.set()
    with Running(letters, concurrency=7):
        eventually(lambda: letters.open == 7)
        assert len(letters.due) == 93
        letters.hold.clear()
        eventually(lambda: len(letters.recorded) == 100)
    assert letters.most_open == 7
    assert max(letters.limits) == 7


def test_results_survive_a_database_that_is_away() -> None:
    letters = Letters("a")
    letters.hold.set()
    with Running(letters) as running:
        eventually(lambda: letters.open)
        running.work.failures = [DatabaseUnavailable("away"), DatabaseUnavailable("away")]
        letters.hold.clear()
        eventually(lambda: letters.recorded and not running.work.failures)
        eventually(lambda: running.work.commits > 2)
    assert set(letters.recorded) == {("a", "A")}


def test_a_call_that_crashes_is_left_to_its_lease_and_frees_its_place() -> None:
    letters = Letters("crash", "crash", "a")
    with Running(letters, concurrency=1):
        eventually(lambda: letters.recorded == [("a", "A")])


def test_a_result_that_cannot_be_recorded_does_not_take_the_others_with_it() -> None:
    letters = Letters("a", "b", "poison", "c")
    with Running(letters, linger_seconds=0.1):
        eventually(lambda: len(letters.recorded) == 3)
    assert Counter(task for task, _ in letters.recorded) == Counter("abc")


def test_stopping_finishes_the_calls_in_flight_and_claims_nothing_more() -> None:
    letters = Letters("a")
    letters.hold.set()
    with Running(letters, interval_seconds=60) as running:
        running.effecting.wake()
        eventually(lambda: letters.open)
        running.effecting.stop()
        letters.due.append("late")
        letters.hold.clear()
    assert letters.recorded == [("a", "A")]
    assert list(letters.due) == ["late"]


def test_stopping_waits_for_a_call_only_so_long() -> None:
    letters = Letters("hang", "a")
    with Running(letters, drain_seconds=0.05):
        eventually(lambda: letters.recorded == [("a", "A")])
    assert (letters.open, letters.connected) == (0, 0)


def test_giving_up_does_not_wait_at_all() -> None:
    letters = Letters("hang")
    with Running(letters, drain_seconds=60) as running:
        eventually(lambda: letters.open)
        running.effecting.give_up()
        running.join()
    assert letters.open == 0


def test_a_claim_that_is_broken_ends_the_loop_with_its_error() -> None:
    letters = Letters()
    letters.claim_error = ZeroDivisionError()
    with Running(letters) as running:
        running.join()
    assert isinstance(running.error, ZeroDivisionError)
    assert running.work.closed


def test_resources_that_cannot_be_had_end_the_loop_with_their_error() -> None:
    class Broken(Letters):
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
    letters = Letters()
    with Running(letters) as running:
        seen = running.effecting.last_progress
        eventually(lambda: running.effecting.last_progress > seen)


def test_calls_are_suspended_when_nobody_answers_and_go_on_after_the_first_response() -> None:
    letters = Letters(*"abc")
    letters.away = True
    with Running(letters) as running:
        eventually(lambda: running.reports.states == [False, True])
        assert letters.recorded == [(word, SILENCE) for word in "abc"][: 3 - len(letters.silent)]
        letters.due.extend("defgh")
        for probes in range(1, 5):
            silent = len(letters.silent)
            running.clock.ahead += PROBE_SECONDS
            eventually(lambda silent=silent: len(letters.silent) == silent + 1)  # type: ignore[misc]
            assert len(letters.asked) == 3 + probes, "one call a second"
        waiting = len(letters.due)
        letters.away = False
        running.clock.ahead += PROBE_SECONDS
        eventually(lambda: len([result for _, result in letters.recorded if result != SILENCE]) == waiting)
    assert running.reports.states == [False, True, False]
    assert letters.resumed == 1


def test_what_waits_is_resumed_once_although_the_database_is_away() -> None:
    letters = Letters(*"abc")
    letters.away = True
    with Running(letters) as running:
        eventually(lambda: running.reports.states == [False, True])
        letters.due.append("d")
        running.work.failures = [DatabaseUnavailable("away")] * 2
        letters.away = False
        running.clock.ahead += PROBE_SECONDS
        eventually(lambda: not running.work.failures and letters.due == deque())
    assert letters.resumed >= 1
    assert ("d", "D") in letters.recorded
