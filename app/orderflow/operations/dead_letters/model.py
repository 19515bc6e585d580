# SPDX-License-Identifier: Apache-2.0
"""Reads dead letters: reason, origin, content, and which of them a command selects.

A service dead-letters a message with headers of its own. The broker dead-letters a message that was redelivered too
often, and lists its deaths. The one in its work queue counts: another may be in a retry queue.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import fields

from orderflow.broker_topology import declared_queue
from orderflow.events import EVENTS, OrderLine
from orderflow.messaging.broker import Delivery, Properties
from orderflow.messaging.codec import RETRY_COUNT, decompressed
from orderflow.messaging.consume.settlement import (
    DEAD_LETTERED_AT,
    DETAIL,
    FAILED_QUEUE,
    FIRST_FAILURE,
    REASON,
    bounded,
)
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.publisher_check import ORIGINAL_ROUTING_KEY, ORIGINAL_USER_ID, Origin, PublisherCheck

PERSONAL = frozenset({"user_id", "payment_token"})
"""Fields of a body that are masked, in addition to the fields that no event has."""

_STRUCTS: tuple[type[msgspec.Struct], ...] = (*EVENTS, OrderLine)
_UNMASKED = ({part.name for struct in _STRUCTS for part in fields(struct)} | {"event_type"}) - PERSONAL

_FAILURE_HEADERS = frozenset({RETRY_COUNT, FIRST_FAILURE, REASON, DETAIL, DEAD_LETTERED_AT, FAILED_QUEUE})
_ORIGIN_HEADERS = frozenset({ORIGINAL_ROUTING_KEY, ORIGINAL_USER_ID})
_BROKER_PREFIXES = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-opt-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One entry of the broker's ``x-death`` history."""

    queue: str
    reason: str
    count: int
    at: datetime | None
    exchange: str
    routing_key: str
    """How the message had come to the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One dead letter. ``size_bytes`` is the size on the wire; the body is as it was sent."""

    message_id: str
    event_type: str
    order_id: str
    reason: str
    detail: str
    queue: str
    dead_lettered_by: str
    dead_lettered_at: datetime | None
    first_failure_at: datetime | None
    retry_count: int
    origin: Origin
    trace_id: str
    history: tuple[Death, ...]
    properties: Properties = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """The size of the body on the wire."""
        return len(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selects dead letters; a criterion that is left out does not restrict."""

    message_ids: Collection[str] = ()
    reason: str | None = None
    queue: str | None = None
    event_type: str | None = None
    order_id: str | None = None
    older_than_seconds: float | None = None

    @property
    def everything(self) -> bool:
        """True when there is no criterion."""
        return self == Selection()

    def __call__(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether a dead letter is selected. A dead letter of unknown age is never selected by age."""
        wanted = (
            (self.reason, letter.reason),
            (self.queue, letter.queue),
            (self.event_type, letter.event_type),
            (self.order_id, letter.order_id),
        )
        if any(want is not None and want != has for want, has in wanted):
            return False
        if self.message_ids and letter.message_id not in self.message_ids:
            return False
        if self.older_than_seconds is None:
            return True
        return (
            letter.dead_lettered_at is not None
            and (now - letter.dead_lettered_at).total_seconds() > self.older_than_seconds
        )


def dead_letter(delivery: Delivery, headers: Mapping[str, Any], check: PublisherCheck) -> DeadLetter:
    """Reads a delivery of the dead letter queue. ``headers`` include the broker's lists.

    ``check`` is that of the service whose queue it failed in. The queue is the routing key, by which a service can
    dead-letter nothing but its own messages; a header that names a queue is not believed.
    """
    properties = delivery.properties
    history = tuple(_death(entry) for entry in _list(headers.get("x-death")))
    # The copy that a service dead-letters is a new message: in its queue only the broker's own have died.
    death = next((death for death in history if declared_queue(death.queue) == delivery.routing_key), None)
    by_service = death is None and DEAD_LETTERED_AT in headers
    return DeadLetter(
        message_id=properties.message_id or "",
        event_type=properties.type or "",
        order_id=properties.correlation_id or "",
        reason=(death.reason if death else _text(headers.get(REASON))) or "unknown",
        detail=_text(headers.get(DETAIL)) if by_service else "",
        queue=delivery.routing_key,
        dead_lettered_by="service" if by_service else "broker",
        dead_lettered_at=_moment(headers.get(DEAD_LETTERED_AT)) if by_service else _last(history),
        first_failure_at=_moment(headers.get(FIRST_FAILURE)),
        retry_count=_count(headers.get(RETRY_COUNT)),
        origin=_origin(delivery, death, check),
        trace_id=_trace_id(_text(headers.get("traceparent"))),
        history=history,
        properties=properties,
        body=delivery.body,
    )


def replay_headers(letter: DeadLetter, *, operator: str, now: datetime) -> dict[str, str | int]:
    """The headers of the replayed copy: those of the event, without those of its failure, and the operator's name.

    So the retry count starts again at 0. The trace context stays: the replay is part of the order's trace. Headers that
    do not fit in the frame are left out, as in every copy.
    """
    kept = {
        name: value
        for name, value in letter.properties.headers.items()
        if name not in _FAILURE_HEADERS | _ORIGIN_HEADERS and not name.startswith(_BROKER_PREFIXES)
    }
    return {
        **bounded(kept),
        **letter.origin.headers(),
        "x-replayed-at": now.isoformat(),
        "x-replayed-by": operator,
    }


_MAX_BODY_BYTES = 1024 * 1024
_MAX_DEPTH = 8
"""Our events nest three levels."""


def masked_body(letter: DeadLetter) -> Any:
    """The body with personal and unknown fields masked; only its size and digest when it is not a JSON object."""
    try:
        plain = decompressed(letter.body, letter.properties.content_encoding, limit_bytes=_MAX_BODY_BYTES)
        content = msgspec.json.decode(plain)
        if isinstance(content, dict):
            return _masked(content, depth=_MAX_DEPTH)
    except (MalformedMessage, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return {"not_an_object": True, "bytes": len(letter.body), "sha256": hashlib.sha256(letter.body).hexdigest()}


def _masked(value: Any, *, depth: int) -> Any:
    """The value with all field names, but only the contents of known fields that are not personal, to ``depth``."""
    if isinstance(value, dict | list) and not depth:
        return "…"
    if isinstance(value, dict):
        return {key: _masked(inner, depth=depth - 1) if key in _UNMASKED else "***" for key, inner in value.items()}
    return [_masked(inner, depth=depth - 1) for inner in value] if isinstance(value, list) else value


def _origin(delivery: Delivery, death: Death | None, check: PublisherCheck) -> Origin:
    """How the event was first published.

    The broker dead-letters a message as it was, with its first publisher as its user, and tells how it had come to the
    queue. The copy of a service is judged like one that came back to the queue.
    """
    exchange, key = (death.exchange, death.routing_key) if death else ("", delivery.routing_key)
    return check.origin(msgspec.structs.replace(delivery, exchange=exchange, routing_key=key))


def _death(entry: Mapping[str, Any]) -> Death:
    keys = entry.get("routing-keys")
    return Death(
        queue=_text(entry.get("queue")),
        reason=_text(entry.get("reason")),
        count=_count(entry.get("count")),
        at=_moment(entry.get("time")),
        exchange=_text(entry.get("exchange")),
        routing_key=_text(keys[0]) if isinstance(keys, list) and keys else "",
    )


def _last(history: tuple[Death, ...]) -> datetime | None:
    return max((death.at for death in history if death.at is not None), default=None)


def _trace_id(traceparent: str) -> str:
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def _list(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return int(value) if isinstance(value, int) and value >= 0 else 0


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
