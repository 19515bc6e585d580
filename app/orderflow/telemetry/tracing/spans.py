# SPDX-License-Identifier: Apache-2.0
"""Starts spans with a given parent, and finds the open span that given trace headers belong to."""

from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from orderflow.telemetry.tracing.propagation import TRACEPARENT, headers_of

Attributes = Mapping[str, AttributeValue]


class OpenSpan:
    """A started span, with the trace headers for what it causes."""

    __slots__ = ("context", "headers", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context = span.get_span_context()
        self.headers = headers_of(self.context)


class Spans:
    """The spans of one process. The caller names the parent of each span; the current context is never read."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, OpenSpan] = {}

    def start(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: SpanContext | None,
        attributes: Attributes,
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> OpenSpan:
        """Begin a span, as the root of a new trace when it has no parent. The caller must end it with ``end``."""
        opened = OpenSpan(
            self._tracer.start_span(
                name,
                context=in_context(parent),
                kind=kind,
                attributes=attributes,
                links=links,
                start_time=start_ns,
                record_exception=False,
                set_status_on_exception=False,
            )
        )
        self.adopt(opened)
        return opened

    def adopt(self, opened: OpenSpan) -> None:
        """Let ``find`` find a span until it is ended."""
        self._open[opened.headers[TRACEPARENT]] = opened

    def find(self, headers: Mapping[str, str]) -> OpenSpan | None:
        """The open span of this process whose headers these are."""
        return self._open.get(headers.get(TRACEPARENT, ""))

    def end(self, opened: OpenSpan, end_ns: int | None = None) -> None:
        """End a span; it can no longer be found."""
        self._open.pop(opened.headers[TRACEPARENT], None)
        opened.span.end(end_ns)


def in_context(parent: SpanContext | None) -> Context:
    """A context in which new spans are children of this one, or roots."""
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())
