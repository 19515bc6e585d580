# SPDX-License-Identifier: Apache-2.0
"""Begins (or joins) a trace with every HTTP request: an ASGI middleware around the whole application.

``scope["orderflow.trace"]`` holds the trace headers to store beside what the request causes. Whether the trace is
recorded is decided here, once for the whole way of the order.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context

from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.propagation import TRACEPARENT, TRACESTATE, headers_of, parsed
from orderflow.telemetry.tracing.spans import OpenSpan, Spans, in_context

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

TRACE = "orderflow.trace"
ROUTE = "path_template"
"""Where the framework leaves the template of the route that matched."""
_WANTED = {TRACEPARENT.encode(): TRACEPARENT, TRACESTATE.encode(): TRACESTATE}
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class TracedHttp:
    """The application with a SERVER span around each request; ``edge`` decides which are recorded.

    Without a tracer it only passes a caller's trace headers on, if they are valid.
    """

    def __init__(self, application: Application, *, edge: Tracer | None, spans: Spans | None) -> None:
        self._application = application
        self._edge = edge
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        incoming = parsed(_trace_headers(scope.get("headers", ())))
        if self._edge is None or self._spans is None:
            scope[TRACE] = headers_of(incoming) if incoming else {}
            await self._application(scope, receive, send)
            return
        opened = OpenSpan(
            self._edge.start_span(
                _named(scope),
                context=in_context(incoming),
                kind=SpanKind.SERVER,
                attributes={
                    **_method(scope),
                    semconv.URL_PATH: scope["path"],
                    semconv.URL_SCHEME: scope.get("scheme", "http"),
                },
            )
        )
        scope[TRACE] = opened.headers
        if opened.span.is_recording():
            self._spans.adopt(opened)
            await self._recorded(opened, self._spans, scope, receive, send)
        else:
            token = attach(set_span_in_context(opened.span))
            try:
                await self._application(scope, receive, send)
            finally:
                detach(token)

    async def _recorded(self, opened: OpenSpan, spans: Spans, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = attach(set_span_in_context(opened.span))
        try:
            await self._application(scope, receive, watched)
        except BaseException as error:
            opened.span.set_attribute(semconv.ERROR_TYPE, type(error).__name__)
            raise
        finally:
            detach(token)
            _finish(opened, scope, status)
            spans.end(opened)


def _finish(opened: OpenSpan, scope: Scope, status: int) -> None:
    span = opened.span
    route = scope.get(ROUTE) or ""
    if route:
        span.update_name(f"{_named(scope)} {route}")
        span.set_attribute(semconv.HTTP_ROUTE, route)
    span.set_attribute(semconv.HTTP_STATUS, status)
    if status >= 500:
        span.set_attribute(semconv.ERROR_TYPE, str(status))
        span.set_status(Status(StatusCode.ERROR))


def _named(scope: Scope) -> str:
    """The name of a span before its route is known: a caller must not be able to invent names."""
    return scope["method"] if scope["method"] in _METHODS else "HTTP"


def _method(scope: Scope) -> dict[str, str]:
    """The attributes for the method; what is no method of HTTP is told apart from those that are."""
    method = str(scope["method"])
    return (
        {semconv.HTTP_METHOD: method}
        if method in _METHODS
        else {semconv.HTTP_METHOD: "_OTHER", semconv.HTTP_METHOD_ORIGINAL: method}
    )


def _trace_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, object]:
    return {_WANTED[name]: value.decode("latin-1") for name, value in headers if name in _WANTED}
