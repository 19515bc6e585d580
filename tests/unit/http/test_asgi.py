# SPDX-License-Identifier: Apache-2.0
"""The outermost layer of an API: what it reports of each request, and how it drains clients."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from orderflow.http.asgi import Application, InstrumentedApplication, Message, Scope, Send, trace_of
from orderflow.instrumentation import Instrumentation, RequestObserver

TRACE_HEADERS = {"traceparent": "00-1-2-01", "tracestate": "a=1"}


class RequestLog(Instrumentation):
    """Keeps every reported request: method, route, status."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self.traces: list[Mapping[str, str]] = []

    def http_request_started(self, *, method: str, path: str, scheme: str, trace: Mapping[str, str]) -> RequestObserver:
        self.traces.append(trace)
        return _Request(self.requests, method)


class _Request(RequestObserver):
    def __init__(self, requests: list[tuple[str, str, int]], method: str) -> None:
        self._requests, self._method = requests, method

    def headers(self) -> Mapping[str, str]:
        return {"traceparent": "ours"}

    def finished(self, *, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self._requests.append((self._method, route, status))


async def accepting(scope: Scope, _receive: object, send: Send) -> None:
    scope["path_template"] = "/v1/orders"
    await send({"type": "http.response.start", "status": 202, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b""})


async def failing(*_: object) -> None:
    raise RuntimeError("bug")


def call(
    application: Application, *, lame_duck: bool = False, kind: str = "http", trace: Mapping[str, str] | None = None
) -> tuple[RequestLog, list[Any], Scope]:
    """One request; what was reported, what was sent (or raised), and the scope."""
    log, sent = RequestLog(), list[Any]()
    subject = InstrumentedApplication(application, log)
    subject.lame_duck = lame_duck

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in (trace or {}).items()]
    scope: Scope = {"type": kind, "method": "POST", "path": "/v1/orders", "headers": [(b"host", b"x"), *headers]}

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    try:
        asyncio.run(subject(scope, receive, send))
    except RuntimeError as error:
        sent.append(error)
    return log, sent, scope


def test_a_request_is_reported_with_its_route_and_status() -> None:
    log, sent, _ = call(accepting)
    assert log.requests == [("POST", "/v1/orders", 202)]
    assert sent[0]["headers"] == [(b"a", b"b")]


def test_the_clients_trace_headers_are_reported_and_those_of_the_observer_are_in_the_scope() -> None:
    log, _, scope = call(accepting, trace=TRACE_HEADERS)
    assert log.traces == [TRACE_HEADERS]
    assert trace_of(scope) == {"traceparent": "ours"}


def test_a_request_without_a_response_counts_as_500() -> None:
    log, sent, _ = call(failing)
    assert log.requests == [("POST", "", 500)]
    assert isinstance(sent[0], RuntimeError)


def test_in_the_lame_duck_period_each_response_closes_its_connection() -> None:
    _, sent, _ = call(accepting, lame_duck=True)
    assert sent[0]["headers"] == [(b"a", b"b"), (b"connection", b"close")]


@pytest.mark.parametrize("lame_duck", [True, False])
def test_what_is_not_http_is_passed_on_unchanged(*, lame_duck: bool) -> None:
    log, sent, _ = call(accepting, lame_duck=lame_duck, kind="websocket")
    assert log.requests == []
    assert sent[0]["headers"] == [(b"a", b"b")]
