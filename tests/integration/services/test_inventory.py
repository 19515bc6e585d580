# SPDX-License-Identifier: Apache-2.0
"""Inventory on a real database: reserve, sell and release, in any order, never more than there is."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from orderflow.events import InventoryRejected, InventoryReserved, OrderLine, StockChanged, StockLow
from orderflow.messaging.errors import BadData
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Done, Incoming
from orderflow.services.inventory import store
from orderflow.services.inventory.handlers import NOTHING_RESERVED
from tests.rigs.inventory import a_handler, cancelled, confirmed, counts, created, handle, put, rejected

pytestmark = pytest.mark.integration


def test_an_order_past_its_deadline_is_rejected_and_takes_no_stock_from_others(inventory: Database) -> None:
    put(inventory, a=1)
    late, good, now = uuid4(), uuid4(), datetime.now(UTC)
    published = handle(
        inventory,
        created(late, deadline=now - timedelta(seconds=1)),
        created(good, deadline=now + timedelta(seconds=60), hold_seconds=30.0),
    )
    ((rejection,), (reservation,), _) = published
    assert isinstance(rejection, InventoryRejected) and rejection.reason == "deadline_exceeded"
    assert isinstance(reservation, InventoryReserved) and reservation.deadline is not None
    assert abs((reservation.deadline - now).total_seconds() - 30) < 20
    assert counts(inventory) == (0, 1, 0)
    assert handle(inventory, cancelled(late)) == [[], []]
    assert counts(inventory) == (0, 1, 0)


def test_an_order_is_reserved_then_sold(inventory: Database) -> None:
    put(inventory, a=10)
    order = uuid4()
    published = handle(inventory, created(order, ("a", 2), ("a", 1)))
    assert isinstance(published[0][0], InventoryReserved) and isinstance(published[1][0], StockChanged)
    assert [len(events) for events in published] == [1, 1]
    assert counts(inventory) == (7, 3, 0)
    assert handle(inventory, confirmed(order)) == [[], []], "nothing that the orders API shows has changed"
    assert counts(inventory) == (7, 0, 3)


@pytest.mark.parametrize("ending", [rejected, cancelled])
def test_a_rejected_or_cancelled_order_releases_its_units(inventory: Database, ending: Callable[[UUID], Event]) -> None:
    put(inventory, a=10)
    order = uuid4()
    handle(inventory, created(order, ("a", 4)))
    handle(inventory, ending(order))
    assert counts(inventory) == (10, 0, 0)


def test_a_confirmed_order_without_a_reservation_is_dead_lettered(inventory: Database) -> None:
    put(inventory, a=10)
    released, sold = uuid4(), uuid4()
    handle(inventory, created(released, ("a", 1)), rejected(released), created(sold, ("a", 1)), confirmed(sold))
    handler = a_handler()
    with inventory.transaction() as transaction:
        messages = [Incoming(uuid4(), confirmed(order), 0) for order in (released, sold, uuid4())]
        assert handler.handle(messages, SqlUnitOfWork(transaction)) == [NOTHING_RESERVED, Done(), NOTHING_RESERVED]


def test_all_lines_are_reserved_or_none(inventory: Database) -> None:
    put(inventory, a=10, b=1)
    first, second, news = handle(inventory, created(uuid4(), ("a", 1), ("b", 2)), created(uuid4(), ("a", 1), ("c", 1)))
    assert isinstance(first[0], InventoryRejected) and first[0].reason == "out_of_stock"
    assert isinstance(second[0], InventoryRejected) and second[0].reason == "unknown_sku"
    assert news == []
    assert counts(inventory) == (10, 0, 0)


def test_a_release_before_its_reservation_leaves_a_tombstone(inventory: Database) -> None:
    put(inventory, a=10)
    order = uuid4()
    assert handle(inventory, cancelled(order)) == [[], []]
    assert handle(inventory, created(order)) == [[], []]
    assert counts(inventory) == (10, 0, 0)


def test_orders_of_one_batch_share_what_is_there(inventory: Database) -> None:
    put(inventory, a=10)
    *published, _ = handle(inventory, *(created(uuid4(), ("a", 4)) for _ in range(3)))
    assert [isinstance(events[0], InventoryReserved) for events in published] == [True, True, False]
    assert isinstance(published[2][0], InventoryRejected)
    assert counts(inventory) == (2, 8, 0)


def test_low_stock_is_published_once_per_fall(inventory: Database) -> None:
    put(inventory, a=10)
    kinds = [type(handle(inventory, created(uuid4(), ("a", 2)))[-1][0]) for _ in range(5)]
    assert kinds == [StockChanged, StockChanged, StockLow, StockChanged, StockChanged]


def test_stock_cannot_be_set_under_what_is_promised(inventory: Database) -> None:
    put(inventory, a=10)
    handle(inventory, created(uuid4(), ("a", 4)))
    with inventory.transaction() as transaction:
        assert store.put(SqlUnitOfWork(transaction), sku="a", on_hand=3, unit_price=1, currency="EUR") == "too_few"
    put(inventory, a=4)
    assert counts(inventory) == (0, 4, 0)


def test_units_of_a_deleted_sku_are_not_booked(inventory: Database) -> None:
    put(inventory, a=10, b=10)
    order = uuid4()
    handle(inventory, created(order, ("a", 1), ("b", 1)))
    with inventory.transaction() as transaction:
        transaction.execute("delete from stock where sku = 'b'")
    with pytest.raises(BadData, match="b"):
        handle(inventory, confirmed(order))
    assert counts(inventory) == (9, 1, 0)


def test_a_decision_on_counts_that_are_not_true_is_refused(inventory: Database) -> None:
    put(inventory, a=1)
    with inventory.transaction() as transaction:
        allocator, _ = store.load(SqlUnitOfWork(transaction), [], ["a"])
    allocator.available["a"] = 9
    allocator.reserve(uuid4(), (OrderLine(sku="a", quantity=2, unit_price=100),))
    with pytest.raises(BadData), inventory.transaction() as transaction:
        store.save(SqlUnitOfWork(transaction), allocator)
    assert counts(inventory) == (1, 0, 0)


def test_statements_do_not_grow_with_the_batch(inventory: Database) -> None:
    put(inventory, a=10_000)
    handler = a_handler()
    orders = [uuid4() for _ in range(125)]
    old = [uuid4() for _ in range(125)]
    handle(inventory, *(created(order) for order in old))
    events: list[Event] = [*(created(order) for order in orders), *(confirmed(order) for order in old)]
    with inventory.transaction() as transaction:
        handler.handle([Incoming(uuid4(), event, 0) for event in events], SqlUnitOfWork(transaction))
        assert transaction.statements == 8


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_and_tripled_events_end_in_the_same_stock(inventory: Database, seed: int) -> None:
    chance = random.Random(seed)
    put(inventory, a=1000, b=1000)
    orders = [uuid4() for _ in range(60)]
    endings: list[Callable[[UUID], Event]] = [confirmed, rejected, cancelled]
    events: list[Event] = [created(order, ("a", 1 + number % 3), ("b", 1)) for number, order in enumerate(orders)]
    # A confirmation always follows its reservation; the other ends may overtake it.
    events += [endings[number % 3](order) for number, order in enumerate(orders) if number % 3]
    events = events * 3
    chance.shuffle(events)
    for start in range(0, len(events), 25):
        handle(inventory, *events[start : start + 25])
    handle(inventory, *(confirmed(order) for number, order in enumerate(orders) if number % 3 == 0))
    sold = sum(1 + number % 3 for number in range(60) if number % 3 == 0)
    assert counts(inventory) == (1000 - sold, 0, sold)
    assert counts(inventory, "b") == (980, 0, 20)
