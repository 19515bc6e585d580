# SPDX-License-Identifier: Apache-2.0
"""Messages that no service can handle, one of each known kind, as a foreign system might publish them.

All have the routing key of ``OrderCreated``, and none names its publisher.
"""

import gzip
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pika
import zstandard

from orderflow.events import OrderCancelled, OrderCreated, OrderLine, StockChanged
from orderflow.messaging.event import encode

JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Poison:
    """One malformed message: its kind, the reason with which it must be dead-lettered, its body and properties."""

    kind: str
    reason: str
    body: bytes
    properties: pika.BasicProperties


def _order() -> dict[str, Any]:
    """What every event of an order has."""
    return {
        "timestamp": datetime.now(UTC),
        "order_id": uuid.uuid4(),
        "user_id": "customer-1",
        "total_amount": 100,
        "currency": "EUR",
        "items": (OrderLine(sku="sku-1", quantity=1, unit_price=100),),
    }


def _good() -> bytes:
    return encode(OrderCreated(**_order(), payment_token="ok"))


def _cancelled() -> bytes:
    return encode(OrderCancelled(**_order(), reason="poison"))


def _stock() -> bytes:
    return encode(
        StockChanged(
            timestamp=datetime.now(UTC),
            sku="sku-1",
            on_hand=1,
            available=1,
            unit_price=1,
            currency="EUR",
            stock_version=1,
        )
    )


_BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty body": ("empty_body", lambda: b""),
    "truncated JSON": ("not_json", lambda: _good()[:-20]),
    "not JSON": ("not_json", lambda: b"<order/>"),
    "bad UTF-8": ("not_json", lambda: b"\xff\xfe\xfd"),
    "NaN": ("not_json", lambda: b"NaN"),
    "an array": ("not_an_event", lambda: b"[1, 2, 3]"),
    "100,000 deep": ("not_an_event", lambda: b"[" * 100_000),
    "no event type": ("not_an_event", lambda: b'{"order_id": "x"}'),
    "unknown event type": ("unknown_event_type", lambda: _good().replace(b"ORDER_CREATED", b"ORDER_SHIPPED")),
    "a newer version": ("unknown_version", lambda: _good().replace(b'"version":1', b'"version":2')),
    "version 0": ("unknown_version", lambda: _good().replace(b'"version":1', b'"version":0')),
    "an amount with decimals": ("invalid_body", lambda: _good().replace(b'"total_amount":100', b'"total_amount":1.5')),
    "a number of 10,000 digits": (
        "invalid_body",
        lambda: _good().replace(b'"total_amount":100', b'"total_amount":' + b"9" * 10_000),
    ),
    "a negative quantity": ("invalid_body", lambda: _good().replace(b'"quantity":1', b'"quantity":-1')),
    "a missing field": ("invalid_body", lambda: _good().replace(b'"user_id":"customer-1",', b"")),
    "another queue's event": ("unexpected_event", _stock),
    "an event under another's routing key": ("wrong_routing_key", _cancelled),
    "an event that names no publisher": ("missing_user_id", _good),
}


def every_kind() -> Iterator[Poison]:
    """One message of each kind, each with a message id of its own."""
    for kind, (reason, body) in _BODIES.items():
        yield Poison(kind, reason, body(), _properties())
    yield Poison("no message id", "missing_message_id", _good(), _properties(message_id=None))
    yield Poison("a message id that is not a UUID", "invalid_message_id", _good(), _properties(message_id="42"))
    yield Poison("another content type", "unknown_content_type", _good(), _properties(content_type="application/xml"))
    yield Poison("an unknown encoding", "unknown_content_encoding", _good(), _properties(content_encoding="br"))
    yield Poison("a corrupt zstd body", "corrupt_compression", _good(), _properties(content_encoding="zstd"))
    yield Poison("a corrupt gzip body", "corrupt_compression", _good(), _properties(content_encoding="gzip"))
    bomb = b" " * (64 * 1024 * 1024)
    compressed = zstandard.ZstdCompressor(level=1).compress(bomb)
    yield Poison("a zstd bomb", "too_large", compressed, _properties(content_encoding="zstd"))
    yield Poison("a gzip bomb", "too_large", gzip.compress(bomb, 1), _properties(content_encoding="gzip"))
    for kind, (reason, properties) in _on_the_wire().items():
        yield Poison(kind, reason, b"<order/>", properties)


class _Wire(pika.BasicProperties):
    """Properties given as bytes: pika would not write them, and the broker passes them on."""

    def __init__(self, *, table: bytes = b"", message_id: bytes | None = None, content_type: bytes = JSON) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        flags = self.FLAG_CONTENT_TYPE | self.FLAG_HEADERS | self.FLAG_DELIVERY_MODE | self.FLAG_MESSAGE_ID
        name = str(uuid.uuid4()).encode() if message_id is None else message_id
        values = _short(content_type), struct.pack(">I", len(table)), table, b"\x02", _short(name)
        self._encoded = struct.pack(">H", flags) + b"".join(values)

    def encode(self) -> list[bytes]:
        """What pika puts into the header frame."""
        return [self._encoded]


def _short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _on_the_wire() -> dict[str, tuple[str, pika.BasicProperties]]:
    milliseconds = struct.pack(">Q", 1_700_000_000_000)
    deep_table = deep_list = b"V"
    for _ in range(2000):
        inside = _short(b"a") + deep_table
        deep_table = b"F" + struct.pack(">I", len(inside)) + inside
        deep_list = b"A" + struct.pack(">I", len(deep_list)) + deep_list
    large = b"S" + struct.pack(">I", 130_900) + b"x" * 130_900
    return {
        "milliseconds in a header of seconds": ("not_json", _Wire(table=_short(b"sent") + b"T" + milliseconds)),
        "a number beyond 64 bits in a header": (
            "not_json",
            _Wire(table=_short(b"large") + b"d" + struct.pack(">d", 1e19)),
        ),
        "tables 2,000 deep": ("not_json", _Wire(table=_short(b"deep") + deep_table)),
        "lists 2,000 deep": ("not_json", _Wire(table=_short(b"deep") + deep_list)),
        "a header name that is not UTF-8": ("not_json", _Wire(table=_short(b"\xff") + b"V")),
        "headers that fill a frame": ("not_json", _Wire(table=_short(b"large") + large)),
        "a message id that is not UTF-8": ("invalid_message_id", _Wire(message_id=b"\xff" * 255)),
        "a content type that is not UTF-8": ("unknown_content_type", _Wire(content_type=b"\xff" * 255)),
    }


def _properties(**changes: object) -> pika.BasicProperties:
    values: dict[str, object] = {
        "message_id": str(uuid.uuid4()),
        "content_type": "application/json",
        "delivery_mode": 2,
        "app_id": "poison",
    }
    return pika.BasicProperties(**(values | changes))
