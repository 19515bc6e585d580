# SPDX-License-Identifier: Apache-2.0
"""The allocator in any order of events: all lines or none, each effect once, and nothing oversold."""

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.events import OrderLine
from orderflow.services.inventory.domain import OUT_OF_STOCK, UNKNOWN_SKU, State, StockAllocator, units_by_sku

ORDERS = [UUID(int=number) for number in range(6)]
ON_HAND = {"a": 5, "b": 3}


def lines(*wants: tuple[str, int]) -> tuple[OrderLine, ...]:
    return tuple(OrderLine(sku=sku, quantity=quantity, unit_price=1) for sku, quantity in wants)


def allocator() -> StockAllocator:
    return StockAllocator(dict(ON_HAND), {})


def test_lines_of_one_sku_are_wanted_together() -> None:
    assert units_by_sku(lines(("a", 3), ("b", 1), ("a", 3))) == {"a": 6, "b": 1}
    reservation = allocator().reserve(ORDERS[0], lines(("a", 3), ("a", 3)))
    assert reservation is not None and reservation.state is State.REJECTED


@pytest.mark.parametrize(
    ("wants", "reason"),
    [((("a", 5), ("b", 3)), None), ((("a", 6),), OUT_OF_STOCK), ((("a", 6), ("c", 1)), UNKNOWN_SKU)],
)
def test_a_shortage_has_one_reason(wants: tuple[tuple[str, int], ...], reason: str | None) -> None:
    assert allocator().shortage(units_by_sku(lines(*wants))) == reason


def test_a_rejected_order_takes_nothing_and_gives_nothing_back() -> None:
    stock = allocator()
    stock.reserve(ORDERS[0], lines(("a", 1), ("b", 4)))
    assert not stock.release(ORDERS[0]) and not stock.sell(ORDERS[0])
    assert (stock.available, stock.movements) == (ON_HAND, [])


def test_a_tombstone_refuses_the_reservation_that_comes_later() -> None:
    stock = allocator()
    assert not stock.release(ORDERS[0])
    assert stock.reserve(ORDERS[0], lines(("a", 1))) is None
    assert stock.reservations[ORDERS[0]].state is State.RELEASED
    assert stock.movements == []


def test_only_what_is_reserved_can_be_sold() -> None:
    stock = allocator()
    assert not stock.sell(ORDERS[0])
    stock.reserve(ORDERS[0], lines(("a", 1)))
    assert stock.sell(ORDERS[0]) and stock.sell(ORDERS[0]) and not stock.release(ORDERS[0])
    assert [movement.kind for movement in stock.movements] == ["reserve", "sell"]


WANTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=3)
EVENTS = st.lists(st.tuples(st.sampled_from(["reserve", "sell", "release"]), st.sampled_from(ORDERS), WANTS))


@given(EVENTS)
def test_whatever_comes_the_sums_agree_and_nothing_is_moved_twice(
    events: list[tuple[str, UUID, list[tuple[str, int]]]],
) -> None:
    stock = allocator()
    for kind, order, wants in events:
        if kind == "reserve":
            stock.reserve(order, lines(*wants))
        elif kind == "sell":
            stock.sell(order)
        else:
            stock.release(order)
        assert all(units >= 0 for units in stock.available.values())
    moved: dict[str, Counter[str]] = {sku: Counter(available=units) for sku, units in ON_HAND.items()}
    for movement in stock.movements:
        moved[movement.sku].update(available=movement.available, reserved=movement.reserved, sold=movement.sold)
    for sku, sums in moved.items():
        assert sums["available"] == stock.available[sku]
        assert sums.total() == ON_HAND[sku] and min(sums.values()) >= 0
        for column, state in (("reserved", State.RESERVED), ("sold", State.SOLD)):
            held = [item.units.get(sku, 0) for item in stock.reservations.values() if item.state is state]
            assert sums[column] == sum(held)
    effects = Counter((movement.order_id, movement.sku, movement.kind) for movement in stock.movements)
    assert all(times == 1 for times in effects.values())
