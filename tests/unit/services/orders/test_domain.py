# SPDX-License-Identifier: Apache-2.0
"""The order's state machine: with any events in any order it moves only forward, to one final state."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.events import (
    InventoryRejected,
    InventoryReserved,
    OrderCreated,
    OrderLine,
    PaymentCaptured,
    PaymentDeclined,
)
from orderflow.messaging.event import Event
from orderflow.services.orders.domain import Status, transition

ABOUT: dict[str, Any] = {
    "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    "order_id": uuid4(),
    "user_id": "u",
    "total_amount": 1,
    "currency": "EUR",
}
ITEMS = (OrderLine(sku="a", quantity=1, unit_price=1),)
RESERVED = InventoryReserved(**ABOUT, items=ITEMS, payment_token="ok")
NO_STOCK = InventoryRejected(**ABOUT, items=ITEMS, reason="out_of_stock")
CAPTURED = PaymentCaptured(**ABOUT, charge_id="c")
DECLINED = PaymentDeclined(**ABOUT, reason="payment_declined")
RANK = {Status.ACCEPTED: 0, Status.RESERVED: 1, Status.CONFIRMED: 2, Status.REJECTED: 2, Status.CANCELLED: 2}


@given(st.lists(st.sampled_from([RESERVED, NO_STOCK, CAPTURED, DECLINED])))
def test_an_order_only_moves_forward_and_stays_where_it_ended(events: list[Event]) -> None:
    status = Status.ACCEPTED
    for event in events:
        taken = transition(status, event)
        if taken is None:
            continue
        assert RANK[taken.status] > RANK[status]
        status = taken.status
    assert status.final == any(event is not RESERVED for event in events)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_transition_for_every_event(status: Status) -> None:
    ends = {transition(status, event) for event in (NO_STOCK, CAPTURED, DECLINED)}
    assert (ends == {None}) == status.final


def test_an_event_that_orders_does_not_declare_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="OrderCreated"):
        transition(Status.ACCEPTED, OrderCreated(**ABOUT, items=ITEMS, payment_token="ok"))
