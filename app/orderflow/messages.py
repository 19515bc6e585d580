# SPDX-License-Identifier: Apache-2.0
"""Every event that travels between the services, and how its JSON body is written and read.

An event is a fact in the past tense. Its body is one JSON object whose ``event_type`` names the class.
Amounts are integers in minor units (cents), times are RFC 3339 in UTC. A field may be added with a default
without a new ``version``: readers ignore fields that they do not know. Any other change raises the version,
and a reader that does not know a version parks the message instead of guessing.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

EXCHANGE = "order_events"
"""The topic exchange to which every event is published."""

_END = r"$(?!\n)"  # in Python $ alone also stands before a last newline
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
Timestamp = Annotated[datetime, Meta(tz=True, description="When it happened, RFC 3339, UTC.")]


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an order: what, how many, and the price of one unit when the order was accepted."""

    sku: Sku
    quantity: Quantity
    unit_price: Amount


Lines = Annotated[tuple[OrderLine, ...], Meta(min_length=1, max_length=100)]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event_type"):
    """What all events have in common; never published itself."""

    routing_key: ClassVar[str]
    timestamp: Timestamp
    version: Literal[1] = 1


class OrderEvent(Event, frozen=True, kw_only=True):
    """An event in the life of one order."""

    order_id: UUID
    user_id: UserId
    total_amount: Amount
    currency: Currency


class OrderCreated(OrderEvent, frozen=True, kw_only=True, tag="ORDER_CREATED"):
    """The orders API accepted an order."""

    routing_key: ClassVar[str] = "order.created"
    items: Lines
    payment_token: PaymentToken


class OrderConfirmed(OrderEvent, frozen=True, kw_only=True, tag="ORDER_CONFIRMED"):
    """The order is final: stock is sold and the customer charged."""

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
    """The provider said no; nothing was charged."""

    routing_key: ClassVar[str] = "payment.declined"
    reason: Reason


class PaymentRefunded(OrderEvent, frozen=True, kw_only=True, tag="PAYMENT_REFUNDED"):
    """A charge of an order that did not come to be was paid back."""

    routing_key: ClassVar[str] = "payment.refunded"
    charge_id: str
    reason: Reason


class StockChanged(Event, frozen=True, kw_only=True, tag="STOCK_CHANGED"):
    """The stock of one SKU is now this; a higher ``stock_version`` is newer."""

    routing_key: ClassVar[str] = "stock.changed"
    sku: Sku
    on_hand: Units
    available: Units
    unit_price: Amount
    currency: Currency
    stock_version: Annotated[int, Meta(ge=1)]


class StockLow(StockChanged, frozen=True, kw_only=True, tag="STOCK_LOW"):
    """The stock changed and is now at or under the low-stock mark: the same facts, a warning besides."""

    routing_key: ClassVar[str] = "stock.changed.low"


EVENTS: tuple[type[Event], ...] = (
    OrderCreated,
    OrderConfirmed,
    OrderRejected,
    OrderCancelled,
    InventoryReserved,
    InventoryRejected,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    StockChanged,
    StockLow,
)
"""Every event that exists; the generated reference and the decoder follow this tuple."""

AnyEvent = (
    OrderCreated
    | OrderConfirmed
    | OrderRejected
    | OrderCancelled
    | InventoryReserved
    | InventoryRejected
    | PaymentCaptured
    | PaymentDeclined
    | PaymentRefunded
    | StockChanged
    | StockLow
)


def event_type(event: type[Event]) -> str:
    """The name of an event class on the wire, for example ``ORDER_CREATED``."""
    return str(event.__struct_config__.tag)


class MalformedMessage(ValueError):
    """A body that is no known event; ``reason`` is one fixed word, usable as a label."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class _Head(msgspec.Struct, frozen=True):
    event_type: str
    version: int = 1


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_decode_head = msgspec.json.Decoder(_Head).decode
_KNOWN = frozenset(event_type(event) for event in EVENTS)


def encode(event: Event) -> bytes:
    """The JSON body of an event, UTF-8, keys in the order of the class."""
    return _encode(event)


def decode(body: bytes) -> AnyEvent:
    """The event in a JSON body; raises MalformedMessage with the reason when there is none."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _diagnosis(body, error) from error


def _diagnosis(body: bytes, error: Exception) -> MalformedMessage:
    """Why a body was refused, from the most telling cause to the least."""
    if not body:
        return MalformedMessage("empty_body", "the body has no bytes")
    try:
        head = _decode_head(body)
    except msgspec.ValidationError:
        return MalformedMessage("not_an_event", str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return MalformedMessage("not_json", str(error))
    if head.event_type not in _KNOWN:
        return MalformedMessage("unknown_event_type", "no event has the type that the message names")
    if head.version != 1:
        return MalformedMessage("unknown_version", f"version {head.version} of {head.event_type} is not known here")
    return MalformedMessage("invalid_body", str(error))
