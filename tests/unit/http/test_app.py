# SPDX-License-Identifier: Apache-2.0
"""What every API does around its handlers."""

import asyncio
from typing import Any

from litestar import post
from litestar.params import JSONBody

from orderflow.http.app import application
from orderflow.http.asgi import Message
from orderflow.instrumentation import Instrumentation


def test_a_client_that_leaves_while_it_sends_its_body_is_reported_as_499() -> None:
    @post("/v1/orders")
    async def order(data: JSONBody[dict[str, str]]) -> None:
        """Is not called."""

    messages = [{"type": "http.request", "body": b'{"a":', "more_body": True}, {"type": "http.disconnect"}]
    sent = list[Any]()

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    app = application([order], keys=None, instrumentation=Instrumentation(), title="orders", description="orders")
    headers = [(b"host", b"orders"), (b"content-type", b"application/json"), (b"content-length", b"99")]
    scope: Any = {"type": "http", "method": "POST", "path": "/v1/orders", "headers": headers, "query_string": b""}
    asyncio.run(app({**scope, "raw_path": b"/v1/orders", "root_path": ""}, receive, send))
    assert sent[0]["status"] == 499
