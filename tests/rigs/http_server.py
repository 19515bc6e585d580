# SPDX-License-Identifier: Apache-2.0
"""A running HTTP server on a free port, and clients that choose the bytes they send."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPResponse

from orderflow.http.asgi import Application
from orderflow.http.connections import ConnectionLimits
from orderflow.http.early_refusal import EarlyRefusal
from orderflow.http.server import HttpServer
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.telemetry.fanout import fan_out


class _Closings(Instrumentation):
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def http_connection_closed(self, reason: str) -> None:
        self.reasons.append(reason)


class RunningServer:
    """A running server, the connections to it, and the reasons for which it closed some."""

    def __init__(self, server: HttpServer, reasons: Sequence[str]) -> None:
        self.port = server.port
        self.reasons = reasons
        self.begin_lame_duck = server.begin_lame_duck
        self._sockets: list[socket.socket] = []

    def connect(self, *parts: bytes) -> socket.socket:
        """A new connection on which these parts were sent, each with a call of its own."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self._sockets.append(connection)
        for part in parts:
            connection.sendall(part)
        return connection

    def send(self, *parts: bytes) -> tuple[int, bytes]:
        """Status and body of one response."""
        return read(self.connect(*parts))

    def close(self) -> None:
        """Close every connection."""
        for connection in self._sockets:
            connection.close()


def read(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next response."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def read_all(connection: socket.socket) -> bytes:
    """What arrives until the server closes in good order."""
    received = b""
    while part := connection.recv(1 << 16):
        received += part
    return received


def read_until_closed(connection: socket.socket) -> bytes:
    """What arrives until the server closes, in good order or not."""
    received = b""
    try:
        while part := connection.recv(1 << 16):
            received += part
    except ConnectionError:
        pass
    return received


def is_closed(connection: socket.socket) -> bool:
    """True when the server has closed; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@contextmanager
def serving(
    application: Application,
    *,
    limits: ConnectionLimits | None = None,
    instrumentation: Sequence[Instrumentation] = (),
    early_refusal: EarlyRefusal | None = None,
) -> Iterator[RunningServer]:
    """A server, until the end of the block."""
    closings = _Closings()
    server = HttpServer(
        application,
        "127.0.0.1",
        0,
        clock=SystemClock(),
        limits=limits or ConnectionLimits(),
        instrumentation=fan_out(Instrumentation, (closings, *instrumentation)),
        early_refusal=early_refusal,
        drain_seconds=1,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    running = RunningServer(server, closings.reasons)
    try:
        yield running
    finally:
        running.close()
        server.stop()
        thread.join()
