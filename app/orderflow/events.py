# SPDX-License-Identifier: Apache-2.0
"""Every event that the services publish.

Amounts are integers in minor units (cents), times are RFC 3339 in UTC. To add an event, add a class to this
module: ``EVENTS``, the decoder and the generated reference include it.
"""

from datetime import datetime
from typing import Annotated, ClassVar
from uuid import UUID

import msgspec
from msgspec import Meta

from orderflow.messaging.event import Event, EventDecoder

EXCHANGE = "order_events"
"""The topic exchange to which every event is published."""

_END = r"$(?!\n)"  # in Python $ alone also matches before a trailing newline
SKU_PATTERN = r"^[A-Za-z0-9._-]{1,64}" + _END
Sku = Annotated[str, Meta(pattern=SKU_PATTERN, description="Stock keeping unit.")]
Quantity = Annotated[int, Meta(ge=1, le=10_000, description="Units, at least one.")]
Amount = Annotated[int, Meta(ge=0, le=2**53 - 1, description="Integer minor units, for example cents.")]
Units = Annotated[int, Meta(ge=0, le=2**31 - 1, description="Units of stock.")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}" + _END, description="ISO 4217 code.")]
_NO_NUL = r"^[^\u0000]+$"  # PostgreSQL stores every character but this one
UserId = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=_NO_NUL, description="The customer, opaque to orderflow.")
]
PaymentToken = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=_NO_NUL, description="The provider's token for a payment method."),
]
Reason = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}" + _END, description="One fixed word, usable as a label.")]


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an order: what, how many, and the price of one unit when the order was accepted."""

    sku: Sku
    quantity: Quantity
    unit_price: Amount


Deadline = Annotated[datetime, Meta(tz=True, description="After this time the work is not begun any more.")] | None
DEADLINE_EXCEEDED = "deadline_exceeded"
"""The reason with which work is refused that has passed its deadline."""
Lines = Annotated[tuple[OrderLine, ...], Meta(min_length=1, max_length=100)]


class OrderEvent(Event, frozen=True, kw_only=True):
    """An event about one order."""

    order_id: UUID
    user_id: UserId
    total_amount: Amount
    currency: Currency

    @property
    def correlation_id(self) -> str:
        """The order's id."""
        return str(self.order_id)


class OrderCreated(OrderEvent, frozen=True, kw_only=True, tag="ORDER_CREATED"):
    """The orders API accepted an order."""

    routing_key: ClassVar[str] = "order.created"
    items: Lines
    payment_token: PaymentToken
    deadline: Deadline = None
    hold_seconds: (
        Annotated[float, Meta(gt=0, description="How long the reservation is held for the payment.")] | None
    ) = None


class OrderConfirmed(OrderEvent, frozen=True, kw_only=True, tag="ORDER_CONFIRMED"):
    """The order is final: its stock is sold and the customer is charged."""

    routing_key: ClassVar[str] = "order.confirmed"
    items: Lines


class OrderRejected(OrderEvent, frozen=True, kw_only=True, tag="ORDER_REJECTED"):
    """The order is final: there was no stock, or the payment was declined."""

    routing_key: ClassVar[str] = "order.rejected"
    items: Lines
    reason: Reason


class OrderCancelled(OrderEvent, frozen=True, kw_only=True, tag="ORDER_CANCELLED"):
    """The order is final: its hold expired before it was paid."""

    routing_key: ClassVar[str] = "order.cancelled"
    items: Lines
    reason: Reason


class InventoryReserved(OrderEvent, frozen=True, kw_only=True, tag="INVENTORY_RESERVED"):
    """Every line of the order is reserved; payment may be taken."""

    routing_key: ClassVar[str] = "inventory.reserved"
    items: Lines
    payment_token: PaymentToken
    deadline: Deadline = None


class InventoryRejected(OrderEvent, frozen=True, kw_only=True, tag="INVENTORY_REJECTED"):
    """Not every line could be reserved, so none was."""

    routing_key: ClassVar[str] = "inventory.rejected"
    items: Lines
    reason: Reason


class PaymentCaptured(OrderEvent, frozen=True, kw_only=True, tag="PAYMENT_CAPTURED"):
    """The provider charged the customer."""

    routing_key: ClassVar[str] = "payment.captured"
    charge_id: str


class PaymentDeclined(OrderEvent, frozen=True, kw_only=True, tag="PAYMENT_DECLINED"):
    """The provider declined; nothing was charged."""

    routing_key: ClassVar[str] = "payment.declined"
    reason: Reason


class PaymentRefunded(OrderEvent, frozen=True, kw_only=True, tag="PAYMENT_REFUNDED"):
    """The charge of a cancelled order was refunded."""

    routing_key: ClassVar[str] = "payment.refunded"
    charge_id: str
    reason: Reason


class StockChanged(Event, frozen=True, kw_only=True, tag="STOCK_CHANGED"):
    """The new stock and price of one SKU; a higher ``stock_version`` is newer."""

    routing_key: ClassVar[str] = "stock.changed"
    sku: Sku
    on_hand: Units
    available: Units
    unit_price: Amount
    currency: Currency
    stock_version: Annotated[int, Meta(ge=1)]

    @property
    def correlation_id(self) -> str:
        """The SKU."""
        return self.sku


class StockLow(StockChanged, frozen=True, kw_only=True, tag="STOCK_LOW"):
    """The available units of one SKU fell to the low-stock mark or below it."""

    routing_key: ClassVar[str] = "stock.changed.low"


EVENTS: tuple[type[Event], ...] = tuple(
    value for value in list(vars().values()) if isinstance(value, type) and hasattr(value, "routing_key")
)
"""Every event above, in the same order; the generated reference and the decoder follow this tuple."""

decode = EventDecoder(EVENTS).decode
"""The event in a JSON body; raises MalformedMessage with the reason when there is none."""
