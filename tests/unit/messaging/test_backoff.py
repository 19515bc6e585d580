# SPDX-License-Identifier: Apache-2.0
import random

from orderflow.messaging.backoff import Backoff, delay_seconds
from orderflow.messaging.lease_sweeper import SETTLING_SECONDS


def test_waits_double_up_to_the_most_and_are_never_nothing() -> None:
    backoff = Backoff(first=0.1, maximum=10, rng=random.Random(1))
    for failures in range(100):
        step = min(10, 0.1 * 2**failures)
        assert step / 10 <= backoff.next() <= step


def test_after_a_success_it_begins_again() -> None:
    backoff = Backoff(first=0.1, maximum=10, rng=random.Random(1))
    for _ in range(20):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.1


def test_a_server_that_was_restarted_is_tried_at_once_and_one_that_is_away_every_two_seconds() -> None:
    backoff = Backoff()
    assert backoff.next() <= 0.05
    later = [backoff.next() for _ in range(50)][-20:]
    assert all(0.2 <= pause <= 2 for pause in later)


def test_every_loop_is_back_before_a_sweeper_takes_over_after_an_outage() -> None:
    backoff = Backoff()
    assert max(backoff.next() for _ in range(200)) < SETTLING_SECONDS


def test_two_processes_do_not_wait_in_step() -> None:
    first, second = Backoff(rng=random.Random(1)), Backoff(rng=random.Random(2))
    assert [first.next() for _ in range(5)] != [second.next() for _ in range(5)]


def test_stored_attempts_wait_between_half_of_their_step_and_all_of_it() -> None:
    for attempts in range(100):
        step = min(30, 0.5 * 2**attempts)
        assert step / 2 <= delay_seconds(attempts, first=0.5, maximum=30, rng=random.Random(attempts)) <= step
    assert len({delay_seconds(5, first=0.5, maximum=30) for _ in range(10)}) > 1
