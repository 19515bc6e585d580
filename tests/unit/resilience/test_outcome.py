# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from local.demo.load_generator import Response
from tests.resilience.outcome import Order, Window, parts, quantile, refused
from tests.rigs.resilience_runs import orders, outcome, responses


def test_the_end_of_a_window_belongs_to_the_next_one() -> None:
    first, second = parts(Window(10, 21), 5)
    assert (first, second) == (Window(10, 15), Window(15, 20))
    assert [15 in first, 15 in second] == [False, True]


def test_orders_count_in_the_window_of_their_acceptance_and_goodput_in_that_of_their_end() -> None:
    run = outcome(orders(4, at=9, seconds=3), orders(2, at=9, status="cancelled", seconds=3))
    assert (run.accepted(Window(0, 10)), run.confirmed(Window(0, 10)), run.finished(Window(0, 10))) == (6, 4, 0)
    assert (run.accepted(Window(10, 20)), run.goodput(Window(10, 20))) == (0, 0.4)
    assert run.accepted(Window(0, 10), "cancelled") == 2


def test_an_open_order_counts_as_old_as_it_was_when_it_was_read() -> None:
    run = outcome([Order(accepted=20, final=None, status="accepted")], seconds=100)
    assert run.waits(Window(0, 100)) == [130]


def test_an_order_without_a_response_is_neither_accepted_nor_refused() -> None:
    run = outcome(
        responses(3, at=1),
        responses(2, at=1, result="backlog-too-long", seconds=0.2),
        responses(1, at=1, result="unknown"),
    )
    assert run.results() == {"accepted": 3, "backlog-too-long": 2, "unknown": 1}
    assert run.response_seconds(refused) == [0.2, 0.2]
    assert run.offered(Window(0, 2)) == 6


@pytest.mark.parametrize(("late", "valid"), [(1, True), (2, False)], ids=["1 in 100", "2 in 100"])
def test_a_run_is_valid_unless_more_than_one_order_in_a_hundred_was_sent_late(late: int, valid: bool) -> None:
    slow = [Response(due=1, late_seconds=0.3, seconds=0.4, result="accepted")] * late
    run = outcome(responses(100 - late, at=1), slow)
    assert run.valid is valid


def test_a_run_without_orders_is_not_late_and_has_no_quantiles() -> None:
    assert replace(outcome(), responses=()).valid
    assert quantile([], 0.99) == 0


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_quantile_is_the_least_value_that_enough_values_do_not_exceed(share: float, value: float) -> None:
    assert quantile(range(1, 101), share) == value
