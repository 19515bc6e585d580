# SPDX-License-Identifier: Apache-2.0
"""Tracing whose spans stay in memory, where tests read them as a collector would: decoded from OTLP."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from unittest.mock import patch

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from orderflow.telemetry.tracing.otlp import SpanEncoder
from orderflow.telemetry.tracing.sampling import RequestSampling
from orderflow.telemetry.tracing.sdk import span_limits
from orderflow.telemetry.tracing.spans import Attributes, Span, Spans
from orderflow.telemetry.tracing.tracer import Tracing

Value = str | bool | int | float


@dataclass(frozen=True)
class Ids:
    """The ids of a span, as numbers."""

    trace_id: int
    span_id: int


@dataclass(frozen=True)
class ReadSpan:
    """A span as it was exported."""

    name: str
    kind: SpanKind
    context: Ids
    parent: Ids | None
    attributes: Mapping[str, Value]
    links: Sequence[Ids]
    events: Sequence[str]
    status: StatusCode


@dataclass
class Traces:
    """Tracing, and the spans that it exported."""

    spans: Spans
    sampling: RequestSampling
    tracing: Tracing
    requests: list[bytes] = field(default_factory=list)

    @classmethod
    def in_memory(cls, *, batches: bool = True, environ: Mapping[str, str] | None = None) -> Self:
        """Tracing that samples requests as the given environment says."""
        with patch.dict(os.environ, environ or {}):  # the SDK reads the environment of the process
            sampling = RequestSampling(TracerProvider(shutdown_on_exit=False).sampler)
            encoder = SpanEncoder(Resource.get_empty(), span_limits(environ or {}))
        requests: list[bytes] = []

        def export(spans: Sequence[Span]) -> None:
            requests.append(encoder.encode(spans))

        spans = Spans(export)
        server: Attributes = {"server.address": "broker", "server.port": 5672}
        tracing = Tracing(spans, sampling=sampling, server=server, batches=batches)
        return cls(spans, sampling, tracing, requests)

    @property
    def finished(self) -> Sequence[ReadSpan]:
        """Every span that has ended."""
        return [span for request in self.requests for span in read(request)]

    def named(self, name: str) -> list[ReadSpan]:
        """The ended spans with this name."""
        return [span for span in self.finished if span.name == name]


def read(request: bytes) -> list[ReadSpan]:
    """The spans of an OTLP request."""
    return [
        _read(span)
        for group in ExportTraceServiceRequest.FromString(request).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _read(span: trace_pb2.Span) -> ReadSpan:
    parent = _ids(span.trace_id, span.parent_span_id) if span.parent_span_id else None
    return ReadSpan(
        name=span.name,
        kind=SpanKind(span.kind - 1),
        context=_ids(span.trace_id, span.span_id),
        parent=parent,
        attributes=_attributes(span.attributes),
        links=[_ids(link.trace_id, link.span_id) for link in span.links],
        events=[event.name for event in span.events],
        status=StatusCode(span.status.code),
    )


def _ids(trace_id: bytes, span_id: bytes) -> Ids:
    return Ids(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"))


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    found: Value = getattr(value, value.WhichOneof("value") or "string_value")
    return found
