# SPDX-License-Identifier: Apache-2.0
"""Events with sensible default values; a test changes only the values that matter to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

from orderflow.events import EXCHANGE, OrderLine, decode
from orderflow.messaging.codec import Codec
from orderflow.messaging.consume.loop import BatchLimits
from orderflow.messaging.consume.settlement import RetryPolicy
from orderflow.messaging.event import Event
from orderflow.messaging.publisher_check import PublisherCheck
from orderflow.messaging.service import Incoming, Outcome

Handling = Callable[[Sequence[Incoming], Any], Sequence[Outcome]]
AnEvent = TypeVar("AnEvent", bound=Event)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def an_event(kind: type[AnEvent], **changes: object) -> AnEvent:
    """An event of this kind; the changes are not validated."""
    values: dict[str, object] = {
        "timestamp": NOW,
        "order_id": uuid4(),
        "user_id": "customer-1",
        "total_amount": 1999,
        "currency": "EUR",
        "items": (OrderLine(sku="sku-1", quantity=1, unit_price=1999),),
        "payment_token": "ok",
        "charge_id": "charge-1",
        "reason": "out_of_stock",
        "sku": "sku-1",
        "on_hand": 100,
        "available": 90,
        "unit_price": 1999,
        "stock_version": 1,
        "deadline": None,
        "hold_seconds": None,
        **changes,
    }
    fields: dict[str, Any] = {name: values[name] for name in kind.__struct_fields__ if name in values}
    return kind(**fields)


def a_codec(app_id: str = "test", **changes: Any) -> Codec:
    """A codec of the domain's events, with the default settings; it checks routing keys, not publishers."""
    values = {
        "compression": "zstd",
        "threshold_bytes": 8 * 1024,
        "limit_bytes": 1024 * 1024,
        "publishers": PublisherCheck(),
        **changes,
    }
    return Codec(app_id=app_id, exchange=EXCHANGE, decode=decode, **values)


def a_retry_policy(*, max_attempts: int = 8, max_age_seconds: float = 3600) -> RetryPolicy:
    """The default settings, unless the test changes them."""
    return RetryPolicy(max_attempts, max_age_seconds)


def batch_limits(messages: int = 250) -> BatchLimits:
    """The default settings, except the number of messages."""
    return BatchLimits(messages=messages, size_bytes=4 * 1024 * 1024, linger_seconds=0.005)


@dataclass(frozen=True, slots=True)
class FunctionHandler:
    """A function as a handler."""

    handle: Handling
