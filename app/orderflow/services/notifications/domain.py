# SPDX-License-Identifier: Apache-2.0
"""The notifications that events cause, and their texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orderflow.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderRejected,
    PaymentRefunded,
    StockLow,
)
from orderflow.messaging.event import Event

Payload = Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One notification. ``subject`` is the order id, or the SKU and the version of its stock."""

    subject: str
    kind: str
    payload: Payload
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The idempotency key: the same for every attempt."""
        return f"{self.subject}:{self.kind}"

    def __repr__(self) -> str:
        return f"Notification(subject={self.subject!r}, kind={self.kind!r})"


@dataclass(frozen=True, slots=True)
class Text:
    """A title and a body."""

    title: str
    body: str


_TEXTS: Mapping[str, Text] = {
    "order_confirmed": Text(
        "Your order is confirmed", "Order {order_id} over {amount} {currency} is paid and on its way."
    ),
    "order_rejected": Text(
        "We could not take your order", "Order {order_id} was not taken ({reason}). You were not charged."
    ),
    "order_cancelled": Text(
        "Your order was cancelled",
        "Order {order_id} was cancelled ({reason}). If you were charged, you will be refunded.",
    ),
    "payment_refunded": Text("Your payment is being refunded", "We refund {amount} {currency} for order {order_id}."),
    "stock_low": Text("{sku} is running out", "{available} units of {sku} are left to sell, {on_hand} are on hand."),
}
KINDS = tuple(_TEXTS)
"""Every kind of notification."""


def notification(event: Event, trace: Mapping[str, str]) -> Notification:
    """The notification that an event causes; raises TypeError for an event that causes none."""
    match event:
        case StockLow():
            subject = f"{event.sku}@{event.stock_version}"
            payload: Payload = {"sku": event.sku, "available": event.available, "on_hand": event.on_hand}
            return Notification(subject=subject, kind="stock_low", payload=payload, trace=trace)
        case OrderConfirmed():
            return _about("order_confirmed", event, trace)
        case OrderRejected():
            return _about("order_rejected", event, trace, reason=event.reason)
        case OrderCancelled():
            return _about("order_cancelled", event, trace, reason=event.reason)
        case PaymentRefunded():
            return _about("payment_refunded", event, trace, reason=event.reason)
    raise TypeError(f"{type(event).__name__} is not handled by notifications")


def text(notification: Notification) -> Text:
    """The text of a notification; amounts have two decimals."""
    payload = dict(notification.payload)
    if "total_amount" in payload:
        units, cents = divmod(int(payload["total_amount"]), 100)
        payload["amount"] = f"{units}.{cents:02}"
    words = _TEXTS[notification.kind]
    return Text(words.title.format(**payload), words.body.format(**payload))


def _about(kind: str, event: OrderEvent, trace: Mapping[str, str], **more: str) -> Notification:
    payload: Payload = {
        "order_id": str(event.order_id),
        "user_id": event.user_id,
        "total_amount": event.total_amount,
        "currency": event.currency,
        **more,
    }
    return Notification(subject=str(event.order_id), kind=kind, payload=payload, trace=trace)
