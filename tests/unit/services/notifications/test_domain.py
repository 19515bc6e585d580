# SPDX-License-Identifier: Apache-2.0
from uuid import UUID

import pytest

from orderflow.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderRejected,
    PaymentRefunded,
    StockLow,
)
from orderflow.instrumentation import NOTIFICATION_KINDS
from orderflow.messaging.event import Event
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.notifications.domain import KINDS, notification, text
from tests.builders import an_event

ORDER = UUID(int=7)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (OrderConfirmed, "order_confirmed"),
        (OrderRejected, "order_rejected"),
        (OrderCancelled, "order_cancelled"),
        (PaymentRefunded, "payment_refunded"),
    ],
)
def test_a_notification_about_an_order_has_the_order_as_its_subject(kind: type[Event], name: str) -> None:
    made = notification(an_event(kind, order_id=ORDER), {})
    assert (made.subject, made.kind, made.key) == (str(ORDER), name, f"{ORDER}:{name}")
    words = text(made)
    assert str(ORDER) in words.body
    assert "{" not in words.title + words.body


def test_low_stock_is_notified_once_for_each_stock_version() -> None:
    event = an_event(StockLow, sku="sku-9", available=3, on_hand=5, stock_version=41)
    made = notification(event, {"traceparent": "t"})
    assert (made.subject, made.kind, made.trace) == ("sku-9@41", "stock_low", {"traceparent": "t"})
    assert text(made).title == "sku-9 is running out"
    assert "3 units" in text(made).body


def test_amounts_are_written_in_units_of_the_currency() -> None:
    made = notification(an_event(OrderConfirmed, total_amount=120_005, currency="EUR"), {})
    assert "1200.05 EUR" in text(made).body


def test_every_event_of_the_queue_has_a_kind_and_every_kind_has_an_event() -> None:
    (queue,) = NOTIFICATIONS.queues
    kinds = {notification(an_event(event), {}).kind for event in queue.events}
    assert kinds == set(KINDS) == set(NOTIFICATION_KINDS)


def test_an_event_without_a_notification_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="OrderCreated"):
        notification(an_event(OrderCreated), {})


def test_a_notification_that_is_printed_names_no_customer() -> None:
    assert "customer-1" not in repr(notification(an_event(OrderConfirmed), {}))
