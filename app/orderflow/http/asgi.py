# SPDX-License-Identifier: Apache-2.0
"""Counts and times each request, and asks clients to leave when the process is about to."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from orderflow.instrumentation import Instrumentation

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Watched:
    """An ASGI application whose answers are told to ``moments``.

    While ``leaving`` each answer closes its connection, so that no client is cut off with a request under way.
    """

    def __init__(self, application: Application, instrumentation: Instrumentation) -> None:
        self.leaving = False
        self._application = application
        self._instrumentation = instrumentation

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        status, begun = 500, time.perf_counter()

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.leaving:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._application(scope, receive, watched)
        finally:
            self._instrumentation.http_request(
                route=str(scope.get("path_template") or ""),
                method=scope["method"],
                status=status,
                seconds=time.perf_counter() - begun,
            )
