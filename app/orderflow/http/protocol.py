# SPDX-License-Identifier: Apache-2.0
"""Reads HTTP as uvicorn's protocol does, but within the limits of ``connections``.

uvicorn has no limit for the head of a request with httptools, no time limit before the first response of a connection,
and no limit of connections: ``limit_concurrency`` answers 503 when a head was already read.
"""

import asyncio
import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from orderflow.http.asgi import Application
from orderflow.http.connections import NEVER, Connections
from orderflow.http.early_refusal import EarlyRefusal
from orderflow.http.problem_bytes import head_and_body
from orderflow.http.problems import BAD_REQUEST, HEAD_TOO_LARGE, ProblemType
from orderflow.instrumentation import Instrumentation

_MAX_PIPELINED = 16
"""Requests that may wait behind one without a response, or be refused early in one read; few clients send any."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What it cannot read is refused with a problem document, and closes it.

    What ``early_refusal`` refuses does not reach the application: it needs no task and no span.
    """

    def __init__(
        self,
        *,
        connections: Connections,
        instrumentation: Instrumentation,
        early_refusal: EarlyRefusal | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.authenticated = False
        self.deadline = NEVER
        self._connections = connections
        self._instrumentation = instrumentation
        self._early_refusal = early_refusal
        self._refused_early = 0
        """Requests since the last read."""
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
        self._refused_early = 0
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
        """The request is refused early, started, or waits for the one before it; after the last response, ignored."""
        if self.transport.is_closing():
            return
        if len(self.pipeline) + self._refused_early >= _MAX_PIPELINED:
            raise ValueError("too many pipelined requests")
        self._beside_bodies = 0
        self._connections.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body, which the application limits."""
        self._beside_bodies = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived, so the client now waits for us, or reads the last response."""
        self._beside_bodies = 0
        if not self.cycle.response_complete:
            self.deadline = NEVER
        elif not self.cycle.keep_alive:
            self.transport.close()
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Application) -> None:
        """Respond to a request whose turn it is."""
        started, refusal = time.perf_counter(), self._early_refusal
        if refusal and (retry_after := refusal.retry_after(cycle.scope["method"], cycle.scope["path"])) is not None:
            self._refuse_early(cycle, refusal, retry_after)
            seconds = time.perf_counter() - started
            self._instrumentation.http_request_refused(
                method=refusal.method, route=refusal.path, status=refusal.status, seconds=seconds
            )
        else:
            super()._start_asgi_task(cycle, app)

    def _refuse_early(self, cycle: RequestResponseCycle, refusal: EarlyRefusal, retry_after: int) -> None:
        """Respond, and discard the body. A client that does not read its responses is disconnected."""
        self._refused_early += 1
        # A client that asks before it sends the body may send it or not, so what follows is not known to be a request.
        cycle.keep_alive = cycle.keep_alive and not (self._connections.lame_duck or cycle.waiting_for_100_continue)
        cycle.response_started = cycle.response_complete = True
        cycle.on_response = lambda: None  # or cycle and connection would refer to each other when they end
        self.transport.write(refusal.response(retry_after, cycle.default_headers, keep_alive=cycle.keep_alive))
        if self.flow.write_paused:
            self._connections.close(self, "unread")
            return
        if not cycle.keep_alive and not cycle.more_body:
            self.transport.close()  # else when the body has arrived, or the client could lose the response to a reset
        self.on_response_complete()

    def _refuse(self, problem: ProblemType, reason: str) -> None:
        """Respond with a problem and close, or only close when an earlier request has no response yet."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            head, body = head_and_body(problem)
            self.transport.write(head + b"connection: close\r\n\r\n" + body)
            self.transport.close()
            self._connections.refused(self, reason, self.loop.time())
        else:
            self._connections.close(self, reason)
