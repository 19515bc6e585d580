# SPDX-License-Identifier: Apache-2.0
"""The outermost layer of every HTTP API: reports each request, and closes connections before the process stops."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from orderflow.instrumentation import Instrumentation

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

RESPONSE_HEADERS = "orderflow.response_headers"
"""In a scope: headers to add to the response, whatever its status."""
_TRACE = "orderflow.trace"
_TRACE_HEADERS = {b"traceparent": "traceparent", b"tracestate": "tracestate"}


class InstrumentedApplication:
    """An ASGI application whose requests are reported to ``instrumentation``.

    In the lame-duck period each response closes its connection, so that no request is cut off when the server stops.
    It wraps the framework, because the framework's middleware does not see requests that match no route.
    """

    def __init__(self, application: Application, instrumentation: Instrumentation) -> None:
        self.lame_duck = False
        self._application = application
        self._instrumentation = instrumentation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope. A request without a response is reported with status 500."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        observer = self._instrumentation.http_request_started(
            method=scope["method"],
            path=scope["path"],
            scheme=scope.get("scheme", "http"),
            trace=_trace_headers(scope["headers"]),
        )
        scope[_TRACE] = observer.headers()

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if added := scope.get(RESPONSE_HEADERS):
                    message["headers"] = [*message["headers"], *added]
                if self.lame_duck:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._application(scope, receive, observed_send)
        finally:
            route = str(scope.get("path_template") or "")
            observer.finished(route=route, status=status, seconds=time.perf_counter() - started)


def trace_of(scope: Mapping[str, Any]) -> Mapping[str, str]:
    """The trace headers to store with what a request causes; none without an ``InstrumentedApplication``."""
    headers: Mapping[str, str] = scope.get(_TRACE, {})
    return headers


def _trace_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {_TRACE_HEADERS[name]: value.decode("latin-1") for name, value in headers if name in _TRACE_HEADERS}
