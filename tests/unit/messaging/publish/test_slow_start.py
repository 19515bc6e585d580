# SPDX-License-Identifier: Apache-2.0
import math
from uuid import uuid4

import pytest

from orderflow.messaging.broker import Failure, Receipt
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.publish.slow_start import GROWTH_SECONDS, MAX_ROWS, SlowStart

INTERVAL = 1.0
KEY = "order.confirmed"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def slow_start(clock: ManualClock) -> SlowStart:
    made = SlowStart(clock=clock, interval_seconds=INTERVAL)
    made.measured([KEY])
    return made


def begin(slow_start: SlowStart, rows: int, key: str = KEY) -> Receipt:
    receipt = Receipt([uuid4() for _ in range(rows)])
    slow_start.began(key, receipt)
    return receipt


def confirm(receipt: Receipt) -> None:
    receipt.settle(len(receipt.keys))


def refuse(receipt: Receipt, failure: Failure = Failure.NACKED) -> None:
    """The last one is refused, the others are confirmed."""
    receipt.settle(len(receipt.keys) - 1)
    receipt.fail(receipt.keys[-1], failure)


def turns(slow_start: SlowStart, clock: ManualClock, *, capacity: int, seconds: float) -> list[int]:
    """The rows of each turn within a time; the queue has room for so many rows in all."""
    sizes = []
    end = clock.monotonic() + seconds
    while clock.monotonic() <= end:
        for rows in slow_start.due(1000).values():
            sizes.append(rows)
            receipt = begin(slow_start, rows)
            confirm(receipt) if rows <= capacity else refuse(receipt)
            capacity -= min(rows, capacity)
        clock.advance(slow_start.pause_seconds())
    return sizes


def test_a_turn_that_is_confirmed_is_followed_by_one_of_twice_as_many_up_to_the_limit(
    slow_start: SlowStart, clock: ManualClock
) -> None:
    sizes = turns(slow_start, clock, capacity=10_000, seconds=3)
    assert sizes[:9] == [1, 2, 4, 8, 16, 32, MAX_ROWS, MAX_ROWS, MAX_ROWS]
    assert clock.monotonic() >= 9 * GROWTH_SECONDS, "healthy queues get a bounded number of duplicates"


def test_while_a_queue_stays_full_one_row_is_published_per_interval(slow_start: SlowStart, clock: ManualClock) -> None:
    assert turns(slow_start, clock, capacity=0, seconds=60 * INTERVAL - 0.1) == [1] * 60


def test_a_nack_makes_the_next_turn_one_row(slow_start: SlowStart, clock: ManualClock) -> None:
    assert turns(slow_start, clock, capacity=20, seconds=5)[:7] == [1, 2, 4, 8, 16, 1, 1]


@pytest.mark.parametrize("failure", Failure)
def test_any_failure_makes_the_next_turn_one_row_after_the_interval(
    slow_start: SlowStart, clock: ManualClock, failure: Failure
) -> None:
    confirm(begin(slow_start, 50))
    assert slow_start.due(1000) == {}
    clock.advance(GROWTH_SECONDS)
    assert slow_start.due(1000) == {KEY: MAX_ROWS}
    refuse(begin(slow_start, MAX_ROWS), failure)
    clock.advance(INTERVAL - 0.01)
    assert slow_start.due(1000) == {}
    clock.advance(0.01)
    assert slow_start.due(1000) == {KEY: 1}


def test_the_next_turn_waits_for_every_result_of_the_last_one(slow_start: SlowStart, clock: ManualClock) -> None:
    receipt = begin(slow_start, 2)
    receipt.settle(1)
    clock.advance(60)
    assert slow_start.due(1000) == {}
    assert slow_start.pause_seconds() < INTERVAL, "results are looked for soon"
    receipt.settle(1)
    assert slow_start.due(1000) == {KEY: 4}


def test_routing_keys_do_not_wait_for_each_other(slow_start: SlowStart, clock: ManualClock) -> None:
    refuse(begin(slow_start, 1))
    slow_start.measured([KEY, "order.rejected"])
    assert slow_start.due(1000) == {"order.rejected": 1}
    confirm(begin(slow_start, 4, "order.rejected"))
    clock.advance(INTERVAL)
    assert slow_start.due(1000) == {KEY: 1, "order.rejected": 8}
    assert slow_start.due(5) == {KEY: 1, "order.rejected": 4}, "no more than there is room for"
    assert slow_start.due(1) == {KEY: 1}
    assert slow_start.due(0) == {}


def test_a_routing_key_without_rows_is_forgotten_and_begins_with_one_row_again(
    slow_start: SlowStart, clock: ManualClock
) -> None:
    confirm(begin(slow_start, 50))
    slow_start.measured([])
    clock.advance(GROWTH_SECONDS)
    assert slow_start.due(1000) == {KEY: MAX_ROWS}, "its last turn was not over when it was measured"
    begin(slow_start, 0)
    assert slow_start.due(1000) == {}
    assert slow_start.pause_seconds() == math.inf
    slow_start.measured([KEY])
    assert slow_start.due(1000) == {KEY: 1}
    slow_start.measured([])
    assert slow_start.due(1000) == {}


def test_a_measurement_does_not_make_a_turn_come_earlier(slow_start: SlowStart, clock: ManualClock) -> None:
    refuse(begin(slow_start, 1))
    assert slow_start.due(1000) == {}
    slow_start.measured([])
    slow_start.measured([KEY])
    assert slow_start.due(1000) == {}
