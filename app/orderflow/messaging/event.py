# SPDX-License-Identifier: Apache-2.0
"""The base of all events, and how their JSON bodies are written and read.

An event is a fact in the past tense. Its body is one JSON object whose ``event_type`` names the class. A field with a
default may be added without a new ``version``: readers ignore fields that they do not know. Every other change
increases the version, and a reader that does not know the version dead-letters the message.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Union

import msgspec
from msgspec import Meta

from orderflow.messaging.errors import MalformedMessage

Timestamp = Annotated[datetime, Meta(tz=True, description="When it happened, RFC 3339, UTC.")]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event_type"):
    """The base of all events; never published itself. Each event names its ``routing_key``."""

    routing_key: ClassVar[str]
    timestamp: Timestamp
    version: Literal[1] = 1

    @property
    def correlation_id(self) -> str:
        """The id of what the event is about; a queue with partitions keeps the order of events with the same id."""
        raise NotImplementedError


def event_type(event: type[Event]) -> str:
    """The name of an event class on the wire, for example ``ORDER_CREATED``."""
    return str(event.__struct_config__.tag)


encode = msgspec.json.Encoder().encode
"""The JSON body of an event: UTF-8, keys in the order of the class."""


class _Head(msgspec.Struct, frozen=True):
    event_type: str
    version: int = 1


_decode_head = msgspec.json.Decoder(_Head).decode


class EventDecoder:
    """Reads the bodies of a fixed set of events."""

    def __init__(self, events: Sequence[type[Event]]) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[tuple(events)])  # noqa: UP007 - a tuple
        self._known = frozenset(event_type(event) for event in events)

    def decode(self, body: bytes) -> Event:
        """The event in a JSON body; raises MalformedMessage with the reason when there is none."""
        try:
            event: Event = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._diagnosis(body, error) from error
        return event

    def _diagnosis(self, body: bytes, error: Exception) -> MalformedMessage:
        """Why a body was refused: the most specific reason."""
        if not body:
            return MalformedMessage("empty_body", "the body has no bytes")
        try:
            head = _decode_head(body)
        except msgspec.ValidationError:
            return MalformedMessage("not_an_event", str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return MalformedMessage("not_json", str(error))
        if head.event_type not in self._known:
            return MalformedMessage("unknown_event_type", "no event has the type that the message names")
        if head.version != 1:
            return MalformedMessage("unknown_version", f"version {head.version} of {head.event_type} is not known")
        return MalformedMessage("invalid_body", str(error))
