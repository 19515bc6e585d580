# SPDX-License-Identifier: Apache-2.0
"""Serves an ASGI application with uvicorn, within limits, as a loop of a process."""

import asyncio
import socket
from dataclasses import replace
from functools import partial
from typing import Any

import uvicorn
import uvloop

from orderflow.http.asgi import Application, InstrumentedApplication
from orderflow.http.connections import ConnectionLimits, Connections
from orderflow.http.early_refusal import EarlyRefusal
from orderflow.http.open_files import connections_allowed
from orderflow.http.protocol import BoundedProtocol
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock

_TICK_SECONDS = 1.0
_LIMITS = ConnectionLimits()


class HttpServer:
    """Listens as soon as it is created; ``port`` 0 takes a free port. Raises OSError when the port is taken.

    Requests are reported to ``instrumentation``. What ``early_refusal`` refuses does not reach the application.

    ``run`` may be called in any thread. In the main thread SIGTERM and SIGINT also stop the server.
    """

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        *,
        clock: Clock,
        limits: ConnectionLimits = _LIMITS,
        instrumentation: Instrumentation | None = None,
        early_refusal: EarlyRefusal | None = None,
        drain_seconds: int = 10,
    ) -> None:
        self.name = "http"
        self.last_progress = clock.monotonic()
        self._clock = clock
        self._socket = socket.create_server((host, port), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        limits = replace(limits, connections=connections_allowed(limits.connections))
        instrumentation = instrumentation or Instrumentation()
        self._connections = Connections(limits, instrumentation)
        self._application = InstrumentedApplication(application, instrumentation)
        protocol: Any = partial(
            BoundedProtocol,
            connections=self._connections,
            instrumentation=instrumentation,
            early_refusal=early_refusal,
        )
        config = uvicorn.Config(
            self._application,
            http=protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=drain_seconds,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until stopped. Open requests are finished first, for ``drain_seconds`` at most."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    def begin_lame_duck(self) -> None:
        """From now on each response closes its connection, so that no request is cut off when the server stops."""
        self._application.lame_duck = self._connections.lame_duck = True

    def stop(self) -> None:
        """Accept no more connections, finish open requests, and return from ``run``."""
        self._server.should_exit = True

    async def _serve(self) -> None:
        ticking = asyncio.create_task(self._tick())
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            self.last_progress = self._clock.monotonic()
            self._connections.close_overdue(asyncio.get_running_loop().time())
            await asyncio.sleep(_TICK_SECONDS)
