# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from threading import Event

import pytest

from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.periodic import Periodic


def run(*results: object, interval: float = 30) -> tuple[list[float], bool]:
    """One call for each result (True, None, or an error to raise); returns the times, and whether it closed."""
    clock, calls, closed = ManualClock(), list[float](), list[bool]()
    waiting = list(results)

    def action() -> bool | None:
        calls.append(clock.monotonic())
        result = waiting.pop(0)
        if not waiting:
            periodic.stop()
        if isinstance(result, Exception):
            raise result
        return bool(result)

    close: Callable[[], None] = lambda: closed.append(True)  # noqa: E731
    periodic = Periodic("task", interval, action, clock=clock, close=close)
    periodic.run()
    assert periodic.last_progress == calls[-1]
    return calls, bool(closed)


def test_the_action_comes_again_after_every_interval() -> None:
    assert run(None, None, None) == ([0, 30, 60], True)


def test_an_action_that_has_more_to_do_is_called_at_once() -> None:
    assert run(True, True, None, None) == ([0, 0, 0, 30], True)


def test_when_the_infrastructure_fails_it_tries_again_sooner_than_the_interval() -> None:
    calls, closed = run(DatabaseUnavailable("gone"), DatabaseUnavailable("gone"), None)
    assert 0 < calls[1] < calls[2] < 1
    assert closed


@pytest.mark.parametrize(
    ("takes", "error", "rests"), [(2, None, 30), (10, None, 90), (2, DatabaseUnavailable("gone"), 18)]
)
def test_a_long_action_is_followed_by_a_rest_in_proportion(takes: int, error: Exception | None, rests: int) -> None:
    clock, begun = ManualClock(), list[float]()

    def action() -> None:
        begun.append(clock.monotonic())
        clock.advance(takes)
        if len(begun) == 2:
            periodic.stop()
        if error:
            raise error

    periodic = Periodic("task", 30, action, clock=clock, rest_factor=9)
    periodic.run()
    assert begun == pytest.approx([0, takes + rests])


def test_any_other_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError("bug"))


class IdleRecordingClock(ManualClock):
    """Records after each wait the time since the last progress of the task."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: list[float] = []
        self.stop_at = float("inf")
        self.task: Periodic

    def wait(self, event: Event, seconds: float) -> bool:
        super().wait(event, seconds)
        self.idle.append(self.monotonic() - self.task.last_progress)
        if self.monotonic() >= self.stop_at:
            self.task.stop()
        return event.is_set()


def test_a_long_rest_is_not_taken_for_a_stall() -> None:
    clock, calls = IdleRecordingClock(), list[float]()

    def action() -> None:
        calls.append(clock.monotonic())
        if len(calls) == 2:
            clock.task.stop()

    clock.task = Periodic("prune", 3600, action, clock=clock)
    clock.task.run()
    assert calls == [0, 3600]
    assert max(clock.idle) <= 2


def test_a_stop_ends_the_rest() -> None:
    clock, calls = IdleRecordingClock(), list[float]()
    clock.task = Periodic("prune", 3600, lambda: calls.append(clock.monotonic()), clock=clock)
    clock.stop_at = 10
    clock.task.run()
    assert (calls, clock.monotonic()) == ([0], 10)
