# SPDX-License-Identifier: Apache-2.0
"""The newest spans, in memory, which can be found by trace or attribute."""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

INDEXED = frozenset({"orderflow.order_id", "messaging.message.id"})
"""Indexed attributes; a search by any other reads every span."""


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One span as it arrived, with the service that sent it. It is converted to JSON when it is read."""

    service: str
    span: Span

    def as_json(self) -> dict[str, Any]:
        """Ids in hexadecimal, times in Unix nanoseconds, ``parent_span_id`` null for a root."""
        span = self.span
        return {
            "name": span.name,
            "service": self.service,
            "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_span_id": span.parent_span_id.hex() or None,
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "attributes": _attributes(span.attributes),
            "links": [_link(link) for link in span.links],
            "events": [_event(event) for event in span.events],
            "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
            "status_message": span.status.message,
        }

    def has(self, key: str, value: str) -> bool:
        """Whether the span has this attribute, its value compared as text."""
        return any(item.key == key and _text(_value(item.value)) == value for item in self.span.attributes)

    def indexed(self) -> Iterator[tuple[str, str]]:
        """The indexed attributes that it has, with their values as text."""
        for item in self.span.attributes:
            if item.key in INDEXED:
                yield item.key, _text(_value(item.value))


class SpanStore:
    """Holds the ``keep`` newest spans; safe to use from any thread."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._arrivals: deque[StoredSpan] = deque()
        self._traces: dict[bytes, list[StoredSpan]] = {}
        self._index: dict[tuple[str, str], Counter[bytes]] = {}
        self.received = 0

    def add(self, request: ExportTraceServiceRequest) -> int:
        """Store all spans of one export; returns their number."""
        spans = list(_spans(request))
        with self._lock:
            for stored in spans:
                self._remember(stored)
            while len(self._arrivals) > self._keep:
                self._forget(self._arrivals.popleft())
            self.received += len(spans)
        return len(spans)

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """All stored spans of a trace, earliest start first; empty when there are none or the id is not hexadecimal."""
        try:
            key = bytes.fromhex(trace_id)
        except ValueError:
            return []
        with self._lock:
            found = list(self._traces.get(key, ()))
        return [stored.as_json() for stored in sorted(found, key=lambda stored: stored.span.start_time_unix_nano)]

    def trace_ids(self, *, attribute: tuple[str, str] | None = None, limit: int = 1000) -> list[str]:
        """Ids of traces with a span that has the attribute, or of all, the newest first."""
        if attribute is not None and attribute[0] in INDEXED:
            with self._lock:
                wanted = list(reversed(self._index.get(attribute, Counter())))
        else:
            wanted = [
                stored.span.trace_id for stored in self._newest_first() if attribute is None or stored.has(*attribute)
            ]
        return [trace_id.hex() for trace_id in islice(dict.fromkeys(wanted), limit)]

    def spans(self, limit: int) -> list[dict[str, Any]]:
        """The newest spans, the newest first."""
        return [stored.as_json() for stored in islice(self._newest_first(), limit)]

    def __len__(self) -> int:
        return len(self._arrivals)

    def _newest_first(self) -> Iterator[StoredSpan]:
        with self._lock:
            arrivals = list(self._arrivals)
        return reversed(arrivals)

    def _remember(self, stored: StoredSpan) -> None:
        trace_id = stored.span.trace_id
        self._arrivals.append(stored)
        self._traces.setdefault(trace_id, []).append(stored)
        for attribute in stored.indexed():
            self._index.setdefault(attribute, Counter())[trace_id] += 1

    def _forget(self, stored: StoredSpan) -> None:
        trace_id = stored.span.trace_id
        trace = self._traces[trace_id]
        trace.pop(0)  # the trace's list has the order of arrival too
        if not trace:
            del self._traces[trace_id]
        for attribute in stored.indexed():
            traces = self._index[attribute]
            traces[trace_id] -= 1
            if not traces[trace_id]:
                del traces[trace_id]
            if not traces:
                del self._index[attribute]


def _spans(request: ExportTraceServiceRequest) -> Iterator[StoredSpan]:
    for resource_spans in request.resource_spans:
        service = str(_attributes(resource_spans.resource.attributes).get("service.name", ""))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield StoredSpan(service, span)


def _attributes(items: Iterable[KeyValue]) -> dict[str, Any]:
    return {item.key: _value(item.value) for item in items}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind) if kind else None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _link(link: "Span.Link") -> dict[str, Any]:
    attributes = _attributes(link.attributes)
    return {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex(), "attributes": attributes}


def _event(event: "Span.Event") -> dict[str, Any]:
    return {"name": event.name, "time": event.time_unix_nano, "attributes": _attributes(event.attributes)}
