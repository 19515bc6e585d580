# SPDX-License-Identifier: Apache-2.0
from orderflow.messaging.circuit_breaker import MAX_FAILURES, PROBE_SECONDS, CircuitBreaker
from orderflow.messaging.clock import ManualClock


def opened(clock: ManualClock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock=clock)
    changes = [breaker.ended(responded=False) for _ in range(MAX_FAILURES)]
    assert changes == [False] * (MAX_FAILURES - 1) + [True]
    return breaker


def test_only_calls_in_a_row_without_response_open_it() -> None:
    breaker = CircuitBreaker(clock=ManualClock())
    for _ in range(10):
        for _ in range(MAX_FAILURES - 1):
            assert not breaker.ended(responded=False)
        assert not breaker.ended(responded=True)
    assert (breaker.is_open, breaker.room(7)) == (False, 7)


def test_while_it_is_open_one_call_a_second_is_let_through_whether_or_not_the_last_has_ended() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    assert breaker.room(7) == 0, "the calls that opened it are young enough"
    for _ in range(5):
        clock.advance(PROBE_SECONDS)
        assert [breaker.room(7), breaker.room(0)] == [1, 0]
        breaker.began(1)
        assert breaker.room(7) == 0
        clock.advance(PROBE_SECONDS - 0.01)
        assert breaker.room(7) == 0
        clock.advance(0.01 - PROBE_SECONDS)


def test_a_probe_that_found_nothing_to_do_is_made_as_soon_as_there_is_something() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.advance(PROBE_SECONDS)
    breaker.began(0)
    assert breaker.room(7) == 1


def test_it_stays_open_without_a_response_and_closes_with_the_first() -> None:
    breaker = opened(ManualClock())
    assert not breaker.ended(responded=False)
    assert breaker.is_open
    assert breaker.ended(responded=True)
    assert (breaker.is_open, breaker.room(7)) == (False, 7)
    assert not breaker.ended(responded=True)
    assert not breaker.ended(responded=False), "it counts from nothing"
