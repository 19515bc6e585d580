# SPDX-License-Identifier: Apache-2.0
"""The span of an HTTP request: it begins a trace or continues the client's.

Whether the trace is sampled is decided here, once for the whole trace of the order.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, set_span_in_context

from orderflow.instrumentation import RequestObserver
from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.propagation import TraceContext, parsed
from orderflow.telemetry.tracing.semconv import AttributeValue
from orderflow.telemetry.tracing.spans import Span, Spans, api_span

if TYPE_CHECKING:
    from orderflow.telemetry.tracing.sampling import RequestSampling

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class ForwardingRequest(RequestObserver):
    """Passes a client's trace headers on if they are valid, and records nothing."""

    __slots__ = ("_headers",)

    def __init__(self, trace: Mapping[str, str]) -> None:
        context = parsed(trace)
        self._headers = context.headers() if context else {}

    def headers(self) -> Mapping[str, str]:
        """The client's trace headers, if they are valid."""
        return self._headers


class RequestTrace(RequestObserver):
    """A SERVER span that is current until the request has finished; ``sampling`` decides whether it is recorded."""

    __slots__ = ("_context", "_method", "_span", "_spans", "_token")

    def __init__(
        self,
        spans: Spans,
        sampling: "RequestSampling",
        *,
        method: str,
        path: str,
        scheme: str,
        parent: TraceContext | None,
    ) -> None:
        # Until the route is known, only the method names the span: a client must not be able to choose span names.
        self._method = method if method in _METHODS else "HTTP"
        self._spans = spans
        attributes = {**_method(method), semconv.URL_PATH: path, semconv.URL_SCHEME: scheme}
        self._context = sampling.context(parent, self._method, attributes)
        self._span: Span | None = None
        if self._context.sampled:
            self._span = Span(self._method, SpanKind.SERVER, self._context, parent, attributes, time.time_ns())
            spans.adopt(self._span)
        self._token = attach(set_span_in_context(api_span(self._context)))

    def headers(self) -> Mapping[str, str]:
        """The trace headers of the span, even when it is not recorded."""
        return self._context.headers()

    def finished(self, *, route: str, status: int, seconds: float) -> None:
        """Name the span by its route and end it."""
        _ = seconds
        detach(self._token)
        span = self._span
        if span is None:
            return
        if route:
            span.name = f"{self._method} {route}"
            span.attributes[semconv.HTTP_ROUTE] = route
        span.attributes[semconv.HTTP_STATUS] = status
        if status >= 500:
            span.attributes[semconv.ERROR_TYPE] = str(status)
            span.error = ""
        self._spans.end([span])


def _method(method: str) -> dict[str, AttributeValue]:
    """The attributes of a method; one that HTTP does not define is reported as ``_OTHER``."""
    if method in _METHODS:
        return {semconv.HTTP_METHOD: method}
    return {semconv.HTTP_METHOD: "_OTHER", semconv.HTTP_METHOD_ORIGINAL: method}
