# SPDX-License-Identifier: Apache-2.0
"""The span of an HTTP request: it begins a trace or continues the client's.

Whether the trace is sampled is decided here, once for the whole trace of the order.
"""

from collections.abc import Mapping

from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from orderflow.instrumentation import RequestObserver
from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.propagation import headers_of, parsed
from orderflow.telemetry.tracing.spans import OpenSpan, Spans, in_context

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class ForwardingRequest(RequestObserver):
    """Passes a client's trace headers on if they are valid, and records nothing."""

    __slots__ = ("_headers",)

    def __init__(self, trace: Mapping[str, str]) -> None:
        context = parsed(trace)
        self._headers = headers_of(context) if context else {}

    def headers(self) -> Mapping[str, str]:
        """The client's trace headers, if they are valid."""
        return self._headers


class RequestTrace(RequestObserver):
    """A SERVER span that is current until the request has finished; ``edge`` decides whether it is recorded."""

    __slots__ = ("_method", "_opened", "_spans", "_token")

    def __init__(
        self, edge: Tracer, spans: Spans, *, method: str, path: str, scheme: str, parent: SpanContext | None
    ) -> None:
        # Until the route is known, only the method names the span: a client must not be able to choose span names.
        self._method = method if method in _METHODS else "HTTP"
        self._spans = spans
        self._opened = OpenSpan(
            edge.start_span(
                self._method,
                context=in_context(parent),
                kind=SpanKind.SERVER,
                attributes={**_method(method), semconv.URL_PATH: path, semconv.URL_SCHEME: scheme},
            )
        )
        if self._opened.span.is_recording():
            spans.adopt(self._opened)
        self._token = attach(set_span_in_context(self._opened.span))

    def headers(self) -> Mapping[str, str]:
        """The trace headers of the span, even when it is not recorded."""
        return self._opened.headers

    def finished(self, *, route: str, status: int, seconds: float) -> None:
        """Name the span by its route and end it."""
        _ = seconds
        detach(self._token)
        span = self._opened.span
        if not span.is_recording():
            return
        if route:
            span.update_name(f"{self._method} {route}")
            span.set_attribute(semconv.HTTP_ROUTE, route)
        span.set_attribute(semconv.HTTP_STATUS, status)
        if status >= 500:
            span.set_attribute(semconv.ERROR_TYPE, str(status))
            span.set_status(Status(StatusCode.ERROR))
        self._spans.end(self._opened)


def _method(method: str) -> dict[str, str]:
    """The attributes of a method; one that HTTP does not define is reported as ``_OTHER``."""
    if method in _METHODS:
        return {semconv.HTTP_METHOD: method}
    return {semconv.HTTP_METHOD: "_OTHER", semconv.HTTP_METHOD_ORIGINAL: method}
