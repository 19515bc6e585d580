# SPDX-License-Identifier: Apache-2.0
"""Serves ``/metrics``, ``/healthz`` and ``/readyz`` on a separate port, in separate threads."""

import gzip
import io
import logging
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = logging.getLogger(__name__)

_MIN_GZIP_BYTES = 1024
_CONNECTION_SECONDS = 30.0
_MAX_CONNECTIONS = 64
"""Each has a thread. A new connection replaces the oldest, so that probes and scrapes get in."""
_HEAD_BYTES = 16 * 1024
"""Maximum length of a request's first line and headers."""
_STOP_SECONDS = 0.05
"""Interval at which the server checks whether it was stopped."""


class TelemetryServer:
    """Serves one registry and the health of one process; ``port`` 0 takes a free port.

    ``not_ready`` returns the reasons why the process cannot work now; empty when it can. ``stalled`` returns the loops
    that have made no progress for too long, with their idle seconds; the process should then be restarted.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.not_ready: Callable[[], Sequence[str]] = lambda: ("starting",)
        self.stalled: Callable[[], Mapping[str, float]] = dict
        self.registry = registry
        self._server = _Listener((host, port), self)
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_SECONDS,), name="telemetry", daemon=True
        )

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def response(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/metrics":
            encoder, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encoder(self.registry)
        if path == "/healthz":
            stalled = self.stalled()
            return _health(not stalled, {"alive": not stalled, "stalled": stalled})
        if path == "/readyz":
            reasons = list(self.not_ready())
            return _health(not reasons, {"ready": not reasons, "reasons": reasons})
        return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"/metrics /healthz /readyz\n"


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], telemetry: TelemetryServer) -> None:
        self.telemetry = telemetry
        self._lock = threading.Lock()
        self._open: OrderedDict[socket.socket, None] = OrderedDict()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        with self._lock:
            if len(self._open) >= _MAX_CONNECTIONS:
                oldest, _ = self._open.popitem(last=False)
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # ends its thread
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log at debug level only: usually a scraper has closed its connection."""
        _ = request, client_address
        log.debug("telemetry.request_failed", exc_info=True)


class _Head(io.BufferedReader):
    """Reads the lines of a request's head; raises ConnectionError when they are too long."""

    left = _HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(min(size if size and size > 0 else self.left + 1, self.left + 1))
        self.left -= len(line)
        if self.left < 0:
            raise ConnectionError("the head of a request is too long")
        return line


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "orderflow"
    sys_version = ""
    timeout = _CONNECTION_SECONDS

    def setup(self) -> None:
        super().setup()
        self.rfile = self._head = _Head(self.connection.makefile("rb", buffering=0))

    def handle_one_request(self) -> None:
        self._head.left = _HEAD_BYTES
        super().handle_one_request()

    def do_GET(self) -> None:
        assert isinstance(self.server, _Listener)
        path = self.path.partition("?")[0]
        try:
            status, content_type, body = self.server.telemetry.response(path, self.headers.get("Accept", ""))
        except Exception:
            log.exception("telemetry.answer_failed", extra={"path": path})
            status, content_type, body = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"failed\n"
        compressed = len(body) >= _MIN_GZIP_BYTES and "gzip" in self.headers.get("Accept-Encoding", "")
        if compressed:
            body = gzip.compress(body, compresslevel=3)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if compressed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing: probes and scrapes are frequent."""


def _health(good: bool, body: Mapping[str, object]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", msgspec.json.encode(body)
