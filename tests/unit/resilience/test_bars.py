# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.resilience import bars
from tests.resilience.bars import Bar
from tests.resilience.outcome import FAULT, RETURN, Order, Outcome
from tests.resilience.times import LONG, SHORT
from tests.rigs.resilience_runs import orders, outcome, responses

MARKS = {FAULT: 15.0, RETURN: 43.0}


def met(found: Iterable[Bar]) -> list[bool]:
    return [bar.met for bar in found]


def after_a_pause(confirmed: int, cancelled: int, offered: int) -> Outcome:
    """Judged are the 47 s from 10 s after the return, with a capacity of 10 orders/s."""
    return outcome(
        orders(confirmed, at=60),
        orders(cancelled, at=60, status="cancelled"),
        responses(offered, at=60),
        marks=MARKS,
    )


@pytest.mark.parametrize(
    ("confirmed", "cancelled", "offered", "expected"),
    [
        (90, 0, 100, [True, True]),
        (89, 0, 100, [False, True]),
        (99, 1, 100, [True, True]),
        (99, 2, 101, [True, False]),
        (0, 0, 100, [False, True]),
        (423, 0, 900, [True, True]),  # nine tenths of the capacity, although more was offered
        (422, 0, 900, [False, True]),
    ],
)
def test_after_a_pause_nine_tenths_of_the_load_or_of_capacity_are_confirmed(
    confirmed: int, cancelled: int, offered: int, expected: list[bool]
) -> None:
    assert met(bars.paused(after_a_pause(confirmed, cancelled, offered), LONG)) == expected


def test_what_is_accepted_soon_after_the_return_is_judged_for_its_cancellations_only() -> None:
    run = outcome(orders(50, at=44, status="cancelled"), orders(90, at=60), responses(90, at=60), marks=MARKS)
    assert met(bars.paused(run, LONG)) == [True, False]


def test_the_short_form_only_asks_whether_the_shop_sells_again() -> None:
    sold = outcome(orders(1, at=60), responses(900, at=60), marks=MARKS)
    stuck = outcome(orders(9, at=20), orders(9, at=60, status="cancelled"), marks=MARKS)
    assert met(bars.paused(sold, SHORT)) == [True, True]
    assert met(bars.paused(stuck, SHORT)) == [True, False]


def test_one_window_below_the_goodput_is_a_missed_bar() -> None:
    steady = [order for second in range(5, 100) for order in orders(9, at=second, seconds=0)]
    gap = [order for order in steady if not 55 <= order.accepted < 65]
    assert met(bars.overloaded(outcome(steady), LONG)) == [True, True, True]
    assert met(bars.overloaded(outcome(gap), LONG)) == [False, True, True]


def test_slow_refusals_and_orders_that_wait_beyond_their_hold_are_missed_bars() -> None:
    steady = [order for second in range(5, 100) for order in orders(9, at=second, seconds=0)]
    run = outcome(steady, responses(99, at=1, result="backlog-too-long", seconds=0.051), orders(50, at=1, seconds=21))
    assert met(bars.overloaded(run, LONG)) == [True, False, False]


@pytest.mark.parametrize(("replicas", "confirmed", "expected"), [(1, 60, True), (1, 59, False), (2, 94, False)])
def test_kills_leave_a_share_of_the_offered_orders_confirmed(replicas: int, confirmed: int, expected: bool) -> None:
    run = outcome(orders(confirmed, at=1), responses(100, at=1))
    assert met(bars.killed_again_and_again(run, LONG, replicas=replicas)) == [expected]


@pytest.mark.parametrize(
    ("replicas", "seconds", "expected"), [(1, 4.9, True), (1, 5.1, False), (2, 1.4, True), (2, 1.6, False)]
)
def test_the_slowest_order_around_a_kill_is_judged(replicas: int, seconds: float, expected: bool) -> None:
    run = outcome(orders(1, at=16, seconds=seconds), orders(1, at=60, seconds=30), marks={FAULT: 15, RETURN: 18})
    assert met(bars.killed_once(run, LONG, replicas=replicas)) == [expected]


def test_an_order_that_is_still_open_is_the_slowest() -> None:
    run = outcome([Order(accepted=16, final=None, status="accepted")], marks={FAULT: 15, RETURN: 18})
    assert met(bars.killed_once(run, LONG, replicas=1)) == [False]


def test_only_orders_accepted_after_the_providers_return_are_judged() -> None:
    waited = orders(1, at=42, seconds=9)
    assert met(bars.provider_away(outcome(waited, orders(1, at=44, seconds=1.9), marks=MARKS), LONG)) == [True]
    assert met(bars.provider_away(outcome(waited, orders(1, at=44, seconds=2.1), marks=MARKS), LONG)) == [False]


def test_broken_promises_and_processes_that_ended_are_missed_bars() -> None:
    run = replace(outcome(), broken=["1 lost"], exits={"orders": [70]})
    assert met(bars.promises(run)) == [False, False]
    assert met(bars.promises(outcome())) == [True, True]
