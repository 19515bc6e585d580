# SPDX-License-Identifier: Apache-2.0
"""Records spans, and finds the open span that a trace context names.

A span of the OpenTelemetry SDK costs more CPU time than a message, so the spans of requests and messages are records of
our own; ``otlp`` encodes them. Ids, flags and the meaning of each field are those of the specification.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from orderflow.telemetry.tracing.propagation import SAMPLED, TraceContext
from orderflow.telemetry.tracing.semconv import AttributeValue

Attributes = Mapping[str, AttributeValue]


class Link(msgspec.Struct, frozen=True):
    """Another span that a span has to do with."""

    context: TraceContext
    attributes: Attributes = {}


class Event(msgspec.Struct, frozen=True):
    """Something that happened during a span, at a time in nanoseconds since 1970."""

    name: str
    time_ns: int
    attributes: Attributes


class Span(msgspec.Struct, eq=False):
    """One operation. ``error`` is why it failed; without one it has no status. Times are in nanoseconds since 1970."""

    name: str
    kind: SpanKind
    context: TraceContext
    parent: TraceContext | None
    attributes: dict[str, AttributeValue]
    start_ns: int
    links: Sequence[Link] = ()
    events: list[Event] = []
    error: str | None = None
    end_ns: int = 0


class Spans:
    """The spans of one process. The caller names the parent of each span; the current context is never read.

    ``export`` receives the spans that have ended. It is called by the threads that end them.
    """

    def __init__(self, export: Callable[[Sequence[Span]], None]) -> None:
        self._export = export
        self._open: dict[str, Span] = {}

    def start(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: TraceContext | None,
        attributes: dict[str, AttributeValue],
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> Span:
        """Begin a span, as the root of a new trace when it has no parent. The caller must end it with ``end``."""
        context = child_of(parent) if parent else TraceContext(new_trace_id(), new_span_id(), SAMPLED)
        return Span(name, kind, context, parent, attributes, start_ns or time.time_ns(), links)

    def adopt(self, span: Span) -> None:
        """Let ``find`` find the span until it is ended."""
        self._open[span.context.span_id] = span

    def find(self, context: TraceContext) -> Span | None:
        """The adopted span of this process that the context names."""
        span = self._open.get(context.span_id)
        return span if span and span.context.trace_id == context.trace_id else None

    def end(self, spans: Sequence[Span]) -> None:
        """End spans and export them; they can no longer be found."""
        ended = time.time_ns()
        for span in spans:
            span.end_ns = ended
            self._open.pop(span.context.span_id, None)
        self._export(spans)


def child_of(parent: TraceContext) -> TraceContext:
    """The context of a new span in the trace of another."""
    return TraceContext(parent.trace_id, new_span_id(), parent.flags, parent.state)


def new_trace_id() -> str:
    """A random id, which is never 0."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """A random id, which is never 0."""
    return f"{random.getrandbits(64) or 1:016x}"


def api_span(context: TraceContext) -> NonRecordingSpan:
    """The span as the OpenTelemetry API knows it: for logs, samplers, and libraries that make child spans."""
    state = TraceState.from_header([context.state]) if context.state else None
    return NonRecordingSpan(
        SpanContext(
            int(context.trace_id, 16), int(context.span_id, 16), context.is_remote, TraceFlags(context.flags), state
        )
    )
