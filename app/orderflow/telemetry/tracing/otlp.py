# SPDX-License-Identifier: Apache-2.0
"""Encodes spans as an OTLP request, without an object for each attribute of each span.

The field numbers are those of opentelemetry-proto; the tests compare the result with that of the SDK's encoder.
https://github.com/open-telemetry/opentelemetry-proto/blob/v1.9.0/opentelemetry/proto/trace/v1/trace.proto
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import SpanKind

from orderflow.telemetry.tracing.propagation import TraceContext
from orderflow.telemetry.tracing.protobuf import FIXED32, FIXED64, VARINT, delimited, sized, tag, varint
from orderflow.telemetry.tracing.semconv import SCHEMA_URL, SCOPE
from orderflow.telemetry.tracing.spans import Attributes, Event, Link, Span

Item = TypeVar("Item")

_RESOURCE_SPANS = delimited(1)
_RESOURCE, _SCOPE_SPANS, _RESOURCE_SCHEMA = delimited(1), delimited(2), delimited(3)
_RESOURCE_ATTRIBUTE = delimited(1)
_SCOPE, _SPAN, _SCOPE_SCHEMA = delimited(1), delimited(2), delimited(3)
_SCOPE_NAME = delimited(1)
_TRACE_ID, _SPAN_ID, _STATE, _PARENT_ID, _NAME = (delimited(field) for field in range(1, 6))
_TRACE_ID_SIZED, _SPAN_ID_SIZED, _PARENT_ID_SIZED = _TRACE_ID + varint(16), _SPAN_ID + varint(8), _PARENT_ID + varint(8)
_KIND = {kind: tag(6, VARINT) + varint(kind.value + 1) for kind in SpanKind}
_START, _END = tag(7, FIXED64), tag(8, FIXED64)
_TIMES = struct.Struct("<sQsQ")
_ATTRIBUTE, _EVENT, _LINK, _STATUS = delimited(9), delimited(11), delimited(13), delimited(15)
_DROPPED_ATTRIBUTES, _DROPPED_EVENTS, _DROPPED_LINKS = tag(10, VARINT), tag(12, VARINT), tag(14, VARINT)
_FLAGS, _LINK_FLAGS = tag(16, FIXED32), tag(6, FIXED32)
_LINK_ATTRIBUTE = delimited(4)
_EVENT_TIME, _EVENT_NAME, _EVENT_ATTRIBUTE = tag(1, FIXED64), delimited(2), delimited(3)
_STATUS_MESSAGE, _STATUS_IS_ERROR = delimited(2), tag(3, VARINT) + varint(2)
_KEY, _VALUE, _ITEM = delimited(1), delimited(2), delimited(1)
_TEXT, _BOOL, _INT, _DOUBLE, _ARRAY = delimited(1), tag(2, VARINT), tag(3, VARINT), tag(4, FIXED64), delimited(5)
_REMOTE_IS_KNOWN, _IS_REMOTE = 0x100, 0x200
"""Bits of the flags: whether the parent, or the linked span, is one of another process."""
_CACHED = 2048
"""Attributes whose encoding is kept: most have few values. Those that differ in each span push each other out."""


class SpanEncoder:
    """Encodes the spans of one process. What is above the ``limits`` is dropped, as the SDK does, and counted."""

    def __init__(self, resource: Resource, limits: SpanLimits) -> None:
        self._limits = limits
        described = b"".join(_attributes(_RESOURCE_ATTRIBUTE, resource.attributes, None))
        self._resource = _RESOURCE + sized(described)
        self._resource_schema = _RESOURCE_SCHEMA + sized(resource.schema_url.encode()) if resource.schema_url else b""

    def encode(self, spans: Sequence[Span]) -> bytes:
        """An ExportTraceServiceRequest with these spans."""
        scope_spans = [_SCOPE + sized(_SCOPE_NAME + sized(SCOPE.encode()))]
        scope_spans.extend(_SPAN + sized(self._span(span)) for span in spans)
        scope_spans.append(_SCOPE_SCHEMA + sized(SCHEMA_URL.encode()))
        resource_spans = self._resource + _SCOPE_SPANS + sized(b"".join(scope_spans)) + self._resource_schema
        return _RESOURCE_SPANS + sized(resource_spans)

    def _span(self, span: Span) -> bytes:
        context, parent = span.context, span.parent
        parts = [_TRACE_ID_SIZED, bytes.fromhex(context.trace_id), _SPAN_ID_SIZED, bytes.fromhex(context.span_id)]
        if context.state:
            parts += (_STATE, sized(context.state.encode()))
        if parent:
            parts += (_PARENT_ID_SIZED, bytes.fromhex(parent.span_id))
        parts += (_NAME, sized(span.name.encode()), _KIND[span.kind])
        parts.append(_TIMES.pack(_START, span.start_ns, _END, span.end_ns))
        parts += self._span_attributes(span.attributes)
        if span.events:
            parts += self._events(span.events)
        if span.links:
            parts += self._links(span.links)
        if span.error is not None:
            parts += (_STATUS, sized(_STATUS_MESSAGE + sized(span.error.encode()) + _STATUS_IS_ERROR))
        parts.append(_flags(_FLAGS, parent))
        return b"".join(parts)

    def _span_attributes(self, attributes: Attributes) -> Iterator[bytes]:
        most, longest = self._limits.max_span_attributes, self._limits.max_span_attribute_length
        dropped = 0 if most is None else len(attributes) - most
        if dropped > 0:
            attributes = dict(list(attributes.items())[:most])
        yield from _attributes(_ATTRIBUTE, attributes, longest)
        if dropped > 0:
            yield _DROPPED_ATTRIBUTES + varint(dropped)

    def _events(self, events: Sequence[Event]) -> Iterator[bytes]:
        kept, dropped = _first(events, self._limits.max_events)
        for event in kept:
            attributes = _attributes(_EVENT_ATTRIBUTE, event.attributes, self._limits.max_attribute_length)
            time = _EVENT_TIME + event.time_ns.to_bytes(8, "little")
            yield _EVENT + sized(b"".join((time, _EVENT_NAME, sized(event.name.encode()), *attributes)))
        if dropped:
            yield _DROPPED_EVENTS + varint(dropped)

    def _links(self, links: Sequence[Link]) -> Iterator[bytes]:
        kept, dropped = _first(links, self._limits.max_links)
        for link in kept:
            trace_id, span_id = bytes.fromhex(link.context.trace_id), bytes.fromhex(link.context.span_id)
            attributes = _attributes(_LINK_ATTRIBUTE, link.attributes, self._limits.max_attribute_length)
            ids = (_TRACE_ID_SIZED, trace_id, _SPAN_ID_SIZED, span_id)
            yield _LINK + sized(b"".join((*ids, *attributes, _flags(_LINK_FLAGS, link.context))))
        if dropped:
            yield _DROPPED_LINKS + varint(dropped)


def _attributes(field: bytes, attributes: Mapping[str, object], longest: int | None) -> Iterator[bytes]:
    for key, value in attributes.items():
        if isinstance(value, str):
            yield _text_attribute(field, key, value if longest is None else value[:longest])
        else:
            yield field + sized(_KEY + sized(key.encode()) + _VALUE + sized(_any_value(value, longest)))


@lru_cache(maxsize=_CACHED)
def _text_attribute(field: bytes, key: str, value: str) -> bytes:
    return field + sized(_KEY + sized(key.encode()) + _VALUE + sized(_any_value(value, None)))


def _any_value(value: object, longest: int | None) -> bytes:
    match value:
        case str():
            return _TEXT + sized(value[:longest].encode(errors="replace"))
        case bool():
            return _BOOL + varint(value)
        case int():
            return _INT + varint(value)
        case float():
            return _DOUBLE + struct.pack("<d", value)
        case list() | tuple():
            return _ARRAY + sized(b"".join(_ITEM + sized(_any_value(item, longest)) for item in value))
        case _:
            return _any_value(str(value), longest)


def _flags(field: bytes, context: TraceContext | None) -> bytes:
    remote = _IS_REMOTE if context and context.is_remote else 0
    return field + (_REMOTE_IS_KNOWN | remote).to_bytes(4, "little")


def _first(items: Sequence[Item], most: int | None) -> tuple[Sequence[Item], int]:
    """The items within a limit, and the number of the others."""
    return (items, 0) if most is None or len(items) <= most else (items[:most], len(items) - most)
