# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest

from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.periodic import Periodic


def run(*results: object, interval: float = 30) -> tuple[list[float], bool]:
    """One call per result (True, None, or an error to raise): when they came, and whether it closed."""
    clock, moments, closed = ManualClock(), list[float](), list[bool]()
    waiting = list(results)

    def action() -> bool | None:
        moments.append(clock.monotonic())
        result = waiting.pop(0)
        if not waiting:
            periodic.stop()
        if isinstance(result, Exception):
            raise result
        return bool(result)

    close: Callable[[], None] = lambda: closed.append(True)  # noqa: E731
    periodic = Periodic("task", interval, action, clock=clock, close=close)
    periodic.run()
    assert periodic.last_progress == moments[-1]
    return moments, bool(closed)


def test_the_action_comes_again_after_every_interval() -> None:
    assert run(None, None, None) == ([0, 30, 60], True)


def test_an_action_that_has_more_to_do_is_called_at_once() -> None:
    assert run(True, True, None, None) == ([0, 0, 0, 30], True)


def test_when_the_surroundings_fail_it_tries_again_sooner_than_the_interval() -> None:
    moments, closed = run(DatabaseUnavailable("gone"), DatabaseUnavailable("gone"), None)
    assert 0 < moments[1] < moments[2] < 1
    assert closed


def test_any_other_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError("bug"))
