# SPDX-License-Identifier: Apache-2.0
"""Orders on a real database: the state machine in batches, the hold, and the view of the stock."""

import random
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from orderflow.events import (
    InventoryRejected,
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderLine,
    OrderRejected,
    PaymentCaptured,
    PaymentDeclined,
    StockChanged,
)
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Done, Incoming, Outcome, Reject
from orderflow.services.orders import store
from orderflow.services.orders.expiry import LIMIT, cancel_expired
from orderflow.services.orders.handlers import MIN_HOLD, AvailabilityUpdates, OrderUpdates
from orderflow.services.orders.store import NewOrder
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.service_database import service_database

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class RecordedEnds(Instrumentation):
    """Records the ends of orders."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, Mapping[str, str]]] = []

    def order_final(self, outcome: str, seconds: float, trace: Mapping[str, str]) -> None:
        assert seconds >= 0
        self.ends.append((outcome, trace))


@pytest.fixture
def orders(database: str) -> Iterator[Database]:
    with service_database(database, "orders") as opened:
        yield opened


def accept(database: Database, *, seconds: float = 60) -> UUID:
    (order,) = accept_many(database, 1, seconds=seconds)
    return order


def accept_many(database: Database, count: int, *, seconds: float = 60) -> list[UUID]:
    items = (OrderLine(sku="a", quantity=1, unit_price=100),)
    new = [NewOrder(uuid4(), "u", items, 100, "EUR", TRACE, "shop") for _ in range(count)]
    with database.transaction() as transaction:
        store.insert(SqlUnitOfWork(transaction), new, deadline=transaction.now + timedelta(seconds=seconds))
    return [order.order_id for order in new]


def expire(database: Database) -> tuple[bool, list[Event]]:
    """Whether there may be more expired orders, and the published events."""
    with database.transaction() as transaction:
        work = SqlUnitOfWork(transaction)
        more = cancel_expired(work, instrumentation=Instrumentation())
    return more, [outgoing.event for outgoing in work.outgoing]


def about(order: UUID) -> dict[str, Any]:
    return {"timestamp": NOW, "order_id": order, "user_id": "u", "total_amount": 100, "currency": "EUR"}


def reserved(order: UUID, *, deadline: datetime | None = None) -> InventoryReserved:
    items = (OrderLine(sku="a", quantity=1, unit_price=100),)
    return InventoryReserved(**about(order), items=items, payment_token="ok", deadline=deadline)


def refused(order: UUID) -> InventoryRejected:
    items = (OrderLine(sku="a", quantity=1, unit_price=100),)
    return InventoryRejected(**about(order), items=items, reason="out_of_stock")


def captured(order: UUID) -> PaymentCaptured:
    return PaymentCaptured(**about(order), charge_id="c")


def declined(order: UUID) -> PaymentDeclined:
    return PaymentDeclined(**about(order), reason="payment_declined")


def handle(database: Database, *events: Event, instrumentation: Instrumentation | None = None) -> list[Outcome]:
    with database.transaction() as transaction:
        work = SqlUnitOfWork(transaction)
        outcomes = OrderUpdates(instrumentation or Instrumentation()).handle(
            [Incoming(uuid4(), event, 0) for event in events], work
        )
    work.committed()
    return list(outcomes)


def status(database: Database, order: UUID) -> tuple[str, str | None]:
    with database.transaction() as transaction:
        stored = store.read(SqlUnitOfWork(transaction), order)
    assert stored is not None
    assert (stored.final_at is not None) == stored.status.final
    return str(stored.status), stored.reason


def steps(database: Database, order: UUID) -> list[str]:
    with database.transaction() as transaction:
        return [step for step, _, _ in store.history(SqlUnitOfWork(transaction), order)]


def ends(outcomes: list[Outcome]) -> list[type]:
    return [type(event) for outcome in outcomes if isinstance(outcome, Done) for event in outcome.events]


def test_a_paid_order_is_confirmed_and_published_once(orders: Database) -> None:
    recorded = RecordedEnds()
    order = accept(orders)
    assert ends(handle(orders, reserved(order))) == []
    assert ends(handle(orders, captured(order), captured(order), declined(order), instrumentation=recorded)) == [
        OrderConfirmed
    ]
    assert ends(handle(orders, captured(order), instrumentation=recorded)) == []
    assert status(orders, order) == ("confirmed", None)
    assert steps(orders, order) == ["accepted", "reserved", "confirmed"]
    assert recorded.ends == [("confirmed", TRACE)]


def test_a_capture_may_overtake_the_reservation(orders: Database) -> None:
    order = accept(orders)
    assert ends(handle(orders, captured(order), reserved(order))) == [OrderConfirmed]
    assert status(orders, order) == ("confirmed", None)


def test_no_stock_and_no_money_are_rejections_with_their_reason(orders: Database) -> None:
    first, second = accept(orders), accept(orders)
    outcomes = handle(orders, refused(first), reserved(second), declined(second))
    assert ends(outcomes) == [OrderRejected, OrderRejected]
    assert status(orders, first) == ("rejected", "out_of_stock")
    assert status(orders, second) == ("rejected", "payment_declined")


def test_an_order_that_does_not_exist_is_refused_and_its_neighbours_are_not(orders: Database) -> None:
    order = accept(orders)
    outcomes = handle(orders, reserved(uuid4()), reserved(order))
    assert outcomes[0] == Reject("unknown_order")
    assert status(orders, order) == ("reserved", None)


def test_a_passed_deadline_cancels_what_is_open_and_nothing_else(orders: Database) -> None:
    recorded = RecordedEnds()
    late, done, patient = accept(orders, seconds=-1), accept(orders, seconds=-1), accept(orders)
    handle(orders, captured(done))
    with orders.transaction() as transaction:
        work = SqlUnitOfWork(transaction)
        assert cancel_expired(work, instrumentation=recorded) is False
    work.committed()
    (outgoing,) = work.outgoing
    assert isinstance(outgoing.event, OrderCancelled) and outgoing.event.order_id == late
    assert (outgoing.event.correlation_id, outgoing.trace) == (str(late), TRACE)
    assert [status(orders, order)[0] for order in (late, done, patient)] == ["cancelled", "confirmed", "accepted"]
    assert recorded.ends == [("cancelled", TRACE)]
    assert ends(handle(orders, captured(late))) == []


def test_the_hold_of_an_order_begins_when_its_stock_is_reserved(orders: Database) -> None:
    held, over, captured_too = accept(orders, seconds=-1), accept(orders, seconds=-1), accept(orders)
    soon = datetime.now(UTC) + timedelta(seconds=60)
    handle(orders, reserved(held, deadline=soon), reserved(over, deadline=soon))
    handle(orders, reserved(captured_too, deadline=soon), captured(captured_too))
    with orders.transaction() as transaction:
        rows = transaction.execute("select reserved_at, hold_until from orders")
        transaction.execute(
            "update orders set hold_until = now() - interval '1 s' where order_id = %(id)s", {"id": over}
        )
    assert rows == [(NOW, soon)] * 3
    _, published = expire(orders)
    (event,) = published
    assert isinstance(event, OrderCancelled) and (event.order_id, event.reason) == (over, "hold_expired")
    assert [status(orders, order)[0] for order in (held, over, captured_too)] == ["reserved", "cancelled", "confirmed"]


def test_a_hold_that_orders_learns_of_late_lasts_until_the_capture_behind_it_can_be_seen(orders: Database) -> None:
    order, past = accept(orders), datetime.now(UTC) - timedelta(seconds=30)
    handle(orders, reserved(order, deadline=past))
    assert expire(orders) == (False, [])
    with orders.transaction() as transaction:
        ((left,),) = transaction.execute("select extract(epoch from hold_until - now())::float8 from orders")
    assert 0 < left <= MIN_HOLD.total_seconds()
    assert ends(handle(orders, captured(order))) == [OrderConfirmed]


def test_orders_expire_in_portions(orders: Database) -> None:
    accept_many(orders, LIMIT + 1, seconds=-1)
    portions = [expire(orders) for _ in range(3)]
    assert [(more, len(published)) for more, published in portions] == [(True, LIMIT), (False, 1), (False, 0)]


def test_an_order_that_is_being_paid_does_not_expire(orders: Database, database: str) -> None:
    order, other = accept_many(orders, 2, seconds=-1)
    concurrent = Database(database)
    with orders.transaction() as transaction:
        OrderUpdates(Instrumentation()).handle([Incoming(uuid4(), captured(order), 0)], SqlUnitOfWork(transaction))
        _, published = expire(concurrent)
    concurrent.close()
    assert [event.order_id for event in published if isinstance(event, OrderCancelled)] == [other]
    assert (status(orders, order)[0], status(orders, other)[0]) == ("confirmed", "cancelled")


def test_a_capture_waits_for_the_expiry_and_changes_nothing(orders: Database, database: str) -> None:
    order = accept(orders, seconds=-1)
    concurrent, published = Database(database), list[list[type]]()
    thread = threading.Thread(target=lambda: published.append(ends(handle(concurrent, captured(order)))))
    with orders.transaction() as transaction:
        cancel_expired(SqlUnitOfWork(transaction), instrumentation=Instrumentation())
        thread.start()
        wait_for_a_lock(database)
    thread.join(30)
    concurrent.close()
    assert published == [[]]  # it was handled, and nothing was published
    assert status(orders, order) == ("cancelled", "deadline_exceeded")


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_and_tripled_events_end_in_the_same_orders(orders: Database, seed: int) -> None:
    chance = random.Random(seed)
    accepted = accept_many(orders, 60)
    fates = [(reserved, captured), (refused,), (reserved, declined)]
    events = [fate(order) for number, order in enumerate(accepted) for fate in fates[number % 3]] * 3
    chance.shuffle(events)
    published: list[type] = []
    for start in range(0, len(events), 25):
        published += ends(handle(orders, *events[start : start + 25]))
    expected = [("confirmed", None), ("rejected", "out_of_stock"), ("rejected", "payment_declined")]
    assert [status(orders, order) for order in accepted] == expected * 20
    assert (published.count(OrderConfirmed), published.count(OrderRejected), len(published)) == (20, 40, 60)
    assert all(steps(orders, order)[-1] == status(orders, order)[0] for order in accepted)


def test_the_highest_stock_version_of_a_sku_wins_in_any_order(orders: Database) -> None:
    def news(version: int, available: int) -> StockChanged:
        return StockChanged(
            timestamp=NOW,
            sku="a",
            on_hand=9,
            available=available,
            unit_price=100,
            currency="EUR",
            stock_version=version,
        )

    for batch in ([news(2, 7), news(3, 6), news(1, 9)], [news(2, 7)]):
        with orders.transaction() as transaction:
            AvailabilityUpdates().handle([Incoming(uuid4(), event, 0) for event in batch], SqlUnitOfWork(transaction))
    with orders.transaction() as transaction:
        assert store.offers(SqlUnitOfWork(transaction), ["a", "b"])["a"].available == 6


def test_statements_do_not_grow_with_the_batch(orders: Database) -> None:
    events: list[Event] = []
    for _ in range(125):
        order = accept(orders)
        events += [reserved(order), captured(order)]
    with orders.transaction() as transaction:
        OrderUpdates(Instrumentation()).handle(
            [Incoming(uuid4(), event, 0) for event in events], SqlUnitOfWork(transaction)
        )
        assert transaction.statements == 5
