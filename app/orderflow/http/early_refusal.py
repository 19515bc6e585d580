# SPDX-License-Identifier: Apache-2.0
"""Refuses requests of one operation before the framework reads them: under overload a refusal must cost little."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from litestar.utils.path import normalize_path

from orderflow.http.asgi import Application, Receive, Scope, Send
from orderflow.http.problems import MEDIA_TYPE, ProblemType


@dataclass(frozen=True, slots=True)
class EarlyRefusal:
    """An ASGI application that answers ``method path`` with ``problem`` while ``check`` says so.

    ``check`` returns the seconds for ``Retry-After``, or None when the request is to be handled. It is asked before the
    client is known.
    """

    application: Application
    method: str
    path: str
    problem: ProblemType
    check: Callable[[], int | None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if (
            scope["type"] != "http"
            or scope["method"] != self.method
            or normalize_path(scope["path"]) != self.path  # as the router does, or a slash more would pass
            or (retry_after := self.check()) is None
        ):
            await self.application(scope, receive, send)
        else:
            scope["path_template"] = self.path  # the route of the metrics
            await self._refuse(send, retry_after)

    async def _refuse(self, send: Send, retry_after: int) -> None:
        body = msgspec.json.encode(self.problem.document())
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % retry_after),
        ]
        await send({"type": "http.response.start", "status": self.problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
