# SPDX-License-Identifier: Apache-2.0
"""What is told of each request, and how clients are asked to leave."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from litestar import post
from litestar.params import JSONBody

from orderflow.http.app import application
from orderflow.http.asgi import Application, Send, Watched
from orderflow.instrumentation import Instrumentation


class Heard(Instrumentation):
    """Keeps what it is told of requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []

    def http_request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((route, method, status))


async def created(scope: MutableMapping[str, Any], _receive: object, send: Send) -> None:
    scope["path_template"] = "/v1/orders"
    await send({"type": "http.response.start", "status": 202, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b""})


async def broken(*_: object) -> None:
    raise RuntimeError("bug")


def call(application: Application, *, leaving: bool = False, kind: str = "http") -> tuple[Heard, list[Any]]:
    heard, sent = Heard(), list[Any]()
    watched = Watched(application, heard)
    watched.leaving = leaving

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    try:
        asyncio.run(watched({"type": kind, "method": "POST"}, None, send))
    except RuntimeError as error:
        sent.append(error)
    return heard, sent


def test_a_request_is_told_by_its_route_and_status() -> None:
    heard, sent = call(created)
    assert heard.requests == [("/v1/orders", "POST", 202)]
    assert sent[0]["headers"] == [(b"a", b"b")]


def test_a_request_that_was_never_answered_counts_as_500() -> None:
    heard, sent = call(broken)
    assert heard.requests == [("", "POST", 500)]
    assert isinstance(sent[0], RuntimeError)


def test_while_leaving_each_answer_closes_its_connection() -> None:
    _, sent = call(created, leaving=True)
    assert sent[0]["headers"] == [(b"a", b"b"), (b"connection", b"close")]


@pytest.mark.parametrize("leaving", [True, False])
def test_what_is_not_http_is_passed_on_untouched(*, leaving: bool) -> None:
    heard, sent = call(created, leaving=leaving, kind="websocket")
    assert heard.requests == []
    assert sent[0]["headers"] == [(b"a", b"b")]


def test_a_client_that_goes_away_in_its_body_is_no_fault_of_ours() -> None:
    @post("/v1/orders")
    async def order(data: JSONBody[dict[str, str]]) -> None:
        """Never comes to this."""

    messages = [{"type": "http.request", "body": b'{"a":', "more_body": True}, {"type": "http.disconnect"}]
    heard, sent = Heard(), list[Any]()

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    shop = application([order], keys=None, instrumentation=heard, title="shop", description="a shop")
    headers = [(b"host", b"shop"), (b"content-type", b"application/json"), (b"content-length", b"99")]
    scope = {"type": "http", "method": "POST", "path": "/v1/orders", "headers": headers, "query_string": b""}
    asyncio.run(Watched(shop, heard)({**scope, "raw_path": b"/v1/orders", "root_path": ""}, receive, send))
    assert heard.requests == [("/v1/orders", "POST", 499)]
    assert sent[0]["status"] == 499
