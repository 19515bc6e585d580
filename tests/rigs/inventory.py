# SPDX-License-Identifier: Apache-2.0
"""Inventory's handler on a real database: stock, events of orders, and the counts that they leave."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from orderflow.events import OrderCancelled, OrderConfirmed, OrderCreated, OrderLine, OrderRejected
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Done, Incoming
from orderflow.services.inventory import store
from orderflow.services.inventory.handlers import InventoryUpdates

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOW = 5


def put(database: Database, **stock: int) -> None:
    """Set the stock of each SKU."""
    with database.transaction() as transaction:
        for sku, on_hand in stock.items():
            store.put(SqlUnitOfWork(transaction), sku=sku, on_hand=on_hand, unit_price=100, currency="EUR")


def _about(order_id: UUID, *lines: tuple[str, int]) -> dict[str, Any]:
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
    return OrderCreated(**_about(order_id, *lines), payment_token="ok", **changes)


def confirmed(order_id: UUID) -> OrderConfirmed:
    return OrderConfirmed(**_about(order_id))


def rejected(order_id: UUID) -> OrderRejected:
    return OrderRejected(**_about(order_id), reason="payment_declined")


def cancelled(order_id: UUID) -> OrderCancelled:
    return OrderCancelled(**_about(order_id), reason="hold_expired")


def a_handler() -> InventoryUpdates:
    return InventoryUpdates(low_units=LOW, instrumentation=Instrumentation())


def handle(database: Database, *events: Event) -> list[list[Any]]:
    """Apply events as one batch; the events that each caused, and last the events about the stock."""
    with database.transaction() as transaction:
        work = SqlUnitOfWork(transaction)
        outcomes = a_handler().handle([Incoming(uuid4(), event, 0) for event in events], work)
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
