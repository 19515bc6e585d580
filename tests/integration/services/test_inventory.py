# SPDX-License-Identifier: Apache-2.0
"""Inventory on a real database: reserve, sell and release, in any order, never more than there is."""

import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from orderflow.database_schema import database_schema
from orderflow.events import (
    InventoryRejected,
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderLine,
    OrderRejected,
    StockChanged,
    StockLow,
)
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.errors import BadData, TransactionAborted
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import migrate
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Done, Incoming
from orderflow.services.inventory import store
from orderflow.services.inventory.handlers import NOTHING_RESERVED, InventoryUpdates
from tests.rigs.database_locks import wait_for_a_lock

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOW = 5


@pytest.fixture
def inventory(database: str) -> Iterator[Database]:
    opened = Database(database)
    migrate(opened, database_schema("inventory"))
    yield opened
    opened.close()


def put(database: Database, **stock: int) -> None:
    with database.transaction() as transaction:
        for sku, on_hand in stock.items():
            store.put(SqlUnitOfWork(transaction), sku=sku, on_hand=on_hand, unit_price=100, currency="EUR")


def about(order_id: UUID, *lines: tuple[str, int]) -> dict[str, Any]:
    items = tuple(OrderLine(sku=sku, quantity=quantity, unit_price=100) for sku, quantity in lines or (("a", 1),))
    total = sum(line.quantity * line.unit_price for line in items)
    return {
        "timestamp": NOW,
        "order_id": order_id,
        "user_id": "u",
        "total_amount": total,
        "currency": "EUR",
        "items": items,
    }


def created(order_id: UUID, *lines: tuple[str, int], **changes: Any) -> OrderCreated:
    return OrderCreated(**about(order_id, *lines), payment_token="ok", **changes)


def confirmed(order_id: UUID) -> OrderConfirmed:
    return OrderConfirmed(**about(order_id))


def rejected(order_id: UUID) -> OrderRejected:
    return OrderRejected(**about(order_id), reason="payment_declined")


def cancelled(order_id: UUID) -> OrderCancelled:
    return OrderCancelled(**about(order_id), reason="hold_expired")


def handle(database: Database, *events: Event) -> list[list[Any]]:
    """Apply events as one batch; the events that each caused, and last the events about the stock."""
    handler = InventoryUpdates(low_units=LOW, instrumentation=Instrumentation())
    with database.transaction() as transaction:
        work = SqlUnitOfWork(transaction)
        outcomes = handler.handle([Incoming(uuid4(), event, 0) for event in events], work)
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    published = [list(outcome.events) for outcome in outcomes if isinstance(outcome, Done)]
    return [*published, [outgoing.event for outgoing in work.outgoing]]


def counts(database: Database, sku: str = "a") -> tuple[int, int, int]:
    """(available, reserved, sold) of a SKU, after checking that its ledger says the same."""
    with database.transaction() as transaction:
        stock = store.read(SqlUnitOfWork(transaction), sku)
        ((*sums,),) = transaction.execute(
            "select sum(d_available)::int, sum(d_reserved)::int, sum(d_sold)::int"
            " from stock_ledger where sku = %(sku)s",
            {"sku": sku},
        )
    assert stock is not None
    assert [stock.available, stock.reserved, stock.sold] == sums
    assert stock.on_hand == sum(sums)
    return stock.available, stock.reserved, stock.sold


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


def test_expired_orders_lock_no_stock(inventory: Database, database: str) -> None:
    put(inventory, a=1)
    late = created(uuid4(), deadline=datetime.now(UTC) - timedelta(seconds=1))
    other = Database(database, statement_timeout_seconds=2)
    with inventory.transaction() as transaction:
        transaction.execute("select from stock for update")
        ((rejection,), _) = handle(other, late)
    other.close()
    assert isinstance(rejection, InventoryRejected)


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
    handler = InventoryUpdates(low_units=LOW, instrumentation=Instrumentation())
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
    handler = InventoryUpdates(low_units=LOW, instrumentation=Instrumentation())
    orders = [uuid4() for _ in range(125)]
    old = [uuid4() for _ in range(125)]
    handle(inventory, *(created(order) for order in old))
    events: list[Event] = [*(created(order) for order in orders), *(confirmed(order) for order in old)]
    with inventory.transaction() as transaction:
        handler.handle([Incoming(uuid4(), event, 0) for event in events], SqlUnitOfWork(transaction))
        assert transaction.statements == 8


def test_two_consumers_never_sell_the_same_unit(inventory: Database, database: str) -> None:
    put(inventory, a=100)

    def buy() -> None:
        own = Database(database)
        for _ in range(60):
            handle(own, created(uuid4()))
        own.close()

    threads = [threading.Thread(target=buy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(inventory) == (0, 100, 0)


def test_two_consumers_with_events_of_one_order_wait_for_each_other(inventory: Database, database: str) -> None:
    put(inventory, a=10)
    order = uuid4()
    handler = InventoryUpdates(low_units=LOW, instrumentation=Instrumentation())
    concurrent = Database(database)
    failed: list[BaseException] = []

    def cancel() -> None:
        try:
            handle(concurrent, cancelled(order))
        except TransactionAborted as error:
            failed.append(error)

    with inventory.transaction() as transaction:
        handler.handle([Incoming(uuid4(), created(order, ("a", 3)), 0)], SqlUnitOfWork(transaction))
        thread = threading.Thread(target=cancel)
        thread.start()
        wait_for_a_lock(database)
    thread.join(30)
    assert not thread.is_alive()
    assert len(failed) == 1  # the core then repeats the batch
    handle(concurrent, cancelled(order))
    concurrent.close()
    assert counts(inventory) == (10, 0, 0)


def test_what_is_being_sold_is_not_released_as_well(inventory: Database, database: str) -> None:
    put(inventory, a=10)
    order = uuid4()
    # The second order's units would hide a release of the first one's from the table's own checks.
    handle(inventory, created(order, ("a", 3)), created(uuid4(), ("a", 3)))
    handler = InventoryUpdates(low_units=LOW, instrumentation=Instrumentation())
    concurrent = Database(database)
    thread = threading.Thread(target=lambda: handle(concurrent, cancelled(order)))
    with inventory.transaction() as transaction:
        handler.handle([Incoming(uuid4(), confirmed(order), 0)], SqlUnitOfWork(transaction))
        thread.start()
        wait_for_a_lock(database)
    thread.join(30)
    assert not thread.is_alive()
    concurrent.close()
    assert counts(inventory) == (4, 3, 3)


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
