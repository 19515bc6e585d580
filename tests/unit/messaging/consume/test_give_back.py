# SPDX-License-Identifier: Apache-2.0
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.consume.give_back import GiveBackTimer


def seconds_until_it_ends(timer: GiveBackTimer, clock: ManualClock) -> float:
    """Fail once a second until the time is over."""
    began = clock.monotonic()
    while not timer.ended():
        clock.advance(1)
    return clock.monotonic() - began


def test_the_time_doubles_up_to_a_quarter_of_an_hour_until_a_batch_succeeds() -> None:
    clock = ManualClock()
    timer = GiveBackTimer(clock=clock)
    assert [seconds_until_it_ends(timer, clock) for _ in range(6)] == [60, 120, 240, 480, 900, 900]
    timer.reset()
    assert seconds_until_it_ends(timer, clock) == 60


def test_a_success_ends_a_failure() -> None:
    clock = ManualClock()
    timer = GiveBackTimer(clock=clock)
    for _ in range(10):
        assert not timer.ended()
        clock.advance(50)
        timer.reset()
