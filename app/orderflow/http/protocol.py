# SPDX-License-Identifier: Apache-2.0
"""Reads HTTP as uvicorn's protocol does, but within the limits of ``connections``.

uvicorn has no limit for the head of a request with httptools, no time limit before the first response of a connection,
and no limit of connections: ``limit_concurrency`` answers 503 when a head was already read.
"""

import asyncio
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from orderflow.http.connections import NEVER, Connections
from orderflow.http.problems import BAD_REQUEST, HEAD_TOO_LARGE, MEDIA_TYPE, ProblemType

_MAX_PIPELINED = 16
"""Requests that may wait behind one without a response; few clients send any."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What it cannot read is refused with a problem document, and closes it."""

    def __init__(self, *, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.authenticated = False
        self.deadline = NEVER
        self._connections = connections
        self._head_bytes = connections.limits.head_bytes
        self._idle = False
        self._beside_bodies = 0
        """Bytes read since the last that belonged to a body or ended a head: part of a head, or of a trailer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; it may be closed immediately."""
        super().connection_made(transport)
        self._connections.opened(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, because the parser keeps a header until it is complete, whatever its length."""
        self._unset_keepalive_if_required()
        while data:
            room = self._head_bytes - self._beside_bodies
            piece, data = data[:room], data[room:]
            self._beside_bodies += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                pass  # the request is answered as if it had not asked for another protocol
            except httptools.HttpParserError:
                self._refuse(BAD_REQUEST, "malformed")
                return
            if self._beside_bodies >= self._head_bytes:
                self._refuse(HEAD_TOO_LARGE, "head_too_large")
                return

    def on_message_begin(self) -> None:
        """The first byte of a request: from now on it must arrive in time."""
        super().on_message_begin()
        if self._idle:
            self._idle = False
            self.deadline = self.loop.time() + self._connections.limits.request_seconds

    def on_headers_complete(self) -> None:
        """The request is started, or waits for the one before it."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError("too many pipelined requests")
        self._beside_bodies = 0
        self._connections.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body, which the application limits."""
        self._beside_bodies = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived, so the client now waits for us."""
        self._beside_bodies = 0
        if not self.cycle.response_complete:
            self.deadline = NEVER
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The response was written; without another request the connection is idle."""
        self.authenticated = self.authenticated or "user" in self.scope
        if self.cycle.response_complete:
            self._idle = True
            self._connections.waiting(self, self.loop.time())
        super().on_response_complete()

    def abort(self) -> None:
        """Close immediately; what was not sent yet is lost."""
        self.transport.abort()

    def _refuse(self, problem: ProblemType, reason: str) -> None:
        """Respond with a problem and close, or only close when an earlier request has no response yet."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.write(_response(problem))
            self.transport.close()
            self._connections.refused(self, reason, self.loop.time())
        else:
            self._connections.close(self, reason)


def _response(problem: ProblemType) -> bytes:
    body = msgspec.json.encode(problem.document())
    head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return STATUS_LINE[problem.status] + head.encode() + body
