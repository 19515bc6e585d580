# SPDX-License-Identifier: Apache-2.0
"""The encoder against the SDK's: the same spans must be the same messages."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, Status, StatusCode

from orderflow.telemetry.tracing.otlp import SpanEncoder
from orderflow.telemetry.tracing.propagation import TraceContext
from orderflow.telemetry.tracing.sdk import span_limits
from orderflow.telemetry.tracing.semconv import SCHEMA_URL, SCOPE
from orderflow.telemetry.tracing.spans import Event, Link, Span, api_span

RESOURCE = Resource.create(
    {"service.name": "orders", "process.command_args": ["serve", "orders"], "replicas": 2, "share": 0.5, "on": True},
    schema_url="https://opentelemetry.io/schemas/1.40.0",
)
ENCODER = SpanEncoder(RESOURCE, SpanLimits())

texts = st.text(st.characters(codec="utf-8"), max_size=300)
integers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
values = st.one_of(texts, st.booleans(), integers, st.floats(allow_nan=False))
attributes = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=150), values, max_size=8)
times = st.integers(min_value=1, max_value=2**63)
contexts = st.builds(
    TraceContext,
    st.integers(1, 2**128 - 1).map("{:032x}".format),
    st.integers(1, 2**64 - 1).map("{:016x}".format),
    st.just(1),
    st.sampled_from(["", "a=1", "vendor=x,other=2"]),
    st.booleans(),
)
spans = st.builds(
    Span,
    name=texts,
    kind=st.sampled_from(SpanKind),
    context=contexts,
    parent=st.none() | contexts,
    attributes=attributes,
    start_ns=times,
    end_ns=times,
    links=st.lists(st.builds(Link, contexts, attributes), max_size=3),
    events=st.lists(st.builds(Event, texts, times, attributes), max_size=3),
    error=st.none() | texts,
)


def of_sdk(span: Span) -> ReadableSpan:
    """The same span as an object of the SDK."""
    return ReadableSpan(
        name=span.name,
        context=api_span(span.context).get_span_context(),
        parent=api_span(span.parent).get_span_context() if span.parent else None,
        resource=RESOURCE,
        attributes=span.attributes,
        events=[SdkEvent(event.name, event.attributes, event.time_ns) for event in span.events],
        links=[trace.Link(api_span(link.context).get_span_context(), link.attributes) for link in span.links],
        kind=span.kind,
        status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope(SCOPE, schema_url=SCHEMA_URL),
    )


def without_empty_statuses(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """The SDK writes a status without content where we write none."""
    for span in request.resource_spans[0].scope_spans[0].spans:
        if not span.status.code:
            span.ClearField("status")
    return request


@given(st.lists(spans, min_size=1, max_size=3))
def test_spans_are_encoded_as_the_sdk_encodes_them(given_spans: list[Span]) -> None:
    ours = ExportTraceServiceRequest.FromString(ENCODER.encode(given_spans))
    assert ours == without_empty_statuses(encode_spans([of_sdk(span) for span in given_spans]))


def a_span(**fields: Any) -> Span:
    context = TraceContext("0" * 31 + "1", "0" * 15 + "1", 1)
    span = Span("x", SpanKind.INTERNAL, context, None, {}, 1, end_ns=2)
    return msgspec.structs.replace(span, **fields)


def encoded(span: Span, limits: SpanLimits) -> Any:
    request = ExportTraceServiceRequest.FromString(SpanEncoder(Resource.get_empty(), limits).encode([span]))
    return request.resource_spans[0].scope_spans[0].spans[0]


def test_what_is_above_the_limits_of_the_sdk_is_dropped_and_counted() -> None:
    link = Link(TraceContext("0" * 31 + "2", "0" * 15 + "2", 1), {"c": "12345"})
    span = a_span(
        attributes={"a": "12345", "b": 1, "c": 2}, links=[link] * 3, events=[Event("e", 1, {"d": "12345"})] * 3
    )
    limits = SpanLimits(
        max_span_attributes=2, max_links=1, max_events=1, max_attribute_length=4, max_span_attribute_length=3
    )
    read = encoded(span, limits)
    assert {pair.key: pair.value.string_value for pair in read.attributes} == {"a": "123", "b": ""}
    assert (len(read.links), len(read.events)) == (1, 1)
    assert (read.dropped_attributes_count, read.dropped_links_count, read.dropped_events_count) == (1, 2, 2)
    assert read.links[0].attributes[0].value.string_value == "1234"
    assert read.events[0].attributes[0].value.string_value == "1234"


@pytest.mark.parametrize(("given_limit", "links"), [("", 1000), ("128", 128)])
def test_a_span_has_a_link_for_each_message_of_the_largest_batch(
    monkeypatch: pytest.MonkeyPatch, given_limit: str, links: int
) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", given_limit)
    link = Link(TraceContext("0" * 31 + "2", "0" * 15 + "2", 1))
    limits = span_limits({"OTEL_SPAN_LINK_COUNT_LIMIT": given_limit})
    assert len(encoded(a_span(links=[link] * 1000), limits).links) == links


def test_a_text_that_is_not_unicode_does_not_lose_the_span() -> None:
    assert encoded(a_span(attributes={"path": "/\udcff"}), SpanLimits()).attributes[0].value.string_value == "/?"


def test_the_scope_is_the_one_that_the_sdk_would_name() -> None:
    request = ExportTraceServiceRequest.FromString(ENCODER.encode([a_span()]))
    scope = request.resource_spans[0].scope_spans[0]
    tracer: Any = TracerProvider(shutdown_on_exit=False).get_tracer(SCOPE, schema_url=SCHEMA_URL)
    span = tracer.start_span("x")
    assert (scope.scope.name, scope.schema_url) == (
        span.instrumentation_scope.name,
        span.instrumentation_scope.schema_url,
    )
