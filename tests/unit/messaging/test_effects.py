# SPDX-License-Identifier: Apache-2.0
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from local.eventually import eventually
from orderflow.messaging.circuit_breaker import PROBE_SECONDS
from orderflow.messaging.errors import DatabaseUnavailable
from tests.rigs.word_effects import SILENCE, Running, WordEffect


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
