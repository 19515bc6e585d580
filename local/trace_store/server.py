# SPDX-License-Identifier: Apache-2.0
"""A trace store for one machine: receives OTLP over HTTP, keeps the newest spans in memory, responds in JSON.

- ``POST /v1/traces``: OTLP protobuf, plain or gzip
- ``GET /traces/{trace_id}``: the spans of a trace, 404 when there are none
- ``GET /traces?attribute=key=value&limit=``: ids of the traces in which a span has it, newest first
- ``GET /spans?limit=``: the newest spans
- ``GET /healthz``: how many spans are stored, and how many were received
"""

import argparse
import json
import threading
import zlib
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from local.interrupts import stop_on_terminate
from local.trace_store.spans import SpanStore

MAX_BODY_BYTES = 32 * 1024**2
"""Larger exports are refused, also when they exceed this only after decompression."""
_GZIP = 16 + zlib.MAX_WBITS


class TraceStore(ThreadingHTTPServer):
    """The HTTP server on 127.0.0.1; port 0 chooses a free one, which is in ``url``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *, port: int = 0, keep: int = 200_000) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.store = SpanStore(keep)

    @property
    def url(self) -> str:
        """Base URL, also the value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Refused(Exception):
    """A response other than 200: status and reason."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True
    timeout = 60
    server: TraceStore

    def do_POST(self) -> None:
        self._respond(self._export)

    def do_GET(self) -> None:
        self._respond(self._query)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the standard library's name
        """Requests are not logged, because there are many."""

    def _respond(self, work: Callable[[], tuple[str, bytes]]) -> None:
        try:
            status, (kind, content) = 200, work()
        except _Refused as refusal:
            status, reason = refusal.args
            kind, content = _json({"error": reason})
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _export(self) -> tuple[str, bytes]:
        body = self._body()
        if self.path != "/v1/traces":
            raise _Refused(404, "exports go to /v1/traces")
        try:
            request = ExportTraceServiceRequest.FromString(body)
        except DecodeError as error:
            raise _Refused(400, "the body is not an OTLP trace export in protobuf") from error
        self.server.store.add(request)
        return "application/x-protobuf", ExportTraceServiceResponse().SerializeToString()

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length") or "0"
        if not (text.isascii() and text.isdecimal()):
            self.close_connection = True
            raise _Refused(400, "Content-Length is not a number")
        length = int(text)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            raise _Refused(413, f"at most {MAX_BODY_BYTES} bytes")
        body = self.rfile.read(length)
        return _unpacked(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _query(self) -> tuple[str, bytes]:
        url = urlsplit(self.path)
        options = {key: values[-1] for key, values in parse_qs(url.query).items()}
        store, (_, first, *rest) = self.server.store, url.path.split("/")
        if first == "healthz":
            return _json({"status": "ok", "spans": len(store), "received": store.received})
        if first == "spans":
            return _json(store.spans(_limit(options)))
        if first == "traces" and not rest:
            return _json(store.trace_ids(attribute=_attribute(options), limit=_limit(options)))
        if first == "traces" and (spans := store.trace(rest[0])):
            return _json(spans)
        raise _Refused(404, "not found")


def _unpacked(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    try:
        content = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise _Refused(400, "the body is not gzip") from error
    if unpacker.unconsumed_tail:
        raise _Refused(413, f"at most {MAX_BODY_BYTES} bytes")
    return content


def _attribute(options: dict[str, str]) -> tuple[str, str] | None:
    if "attribute" not in options:
        return None
    key, equals, value = options["attribute"].partition("=")
    if not equals:
        raise _Refused(400, "attribute must be key=value")
    return key, value


def _limit(options: dict[str, str]) -> int:
    limit = options.get("limit", "1000")
    if not limit.isdecimal():
        raise _Refused(400, "limit must be a number")
    return int(limit)


def _json(content: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trace store in the foreground until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.trace_store", description=main.__doc__)
    parser.add_argument("--port", type=int, default=4318, help="listens on 127.0.0.1 (default: 4318)")
    parser.add_argument("--keep", type=int, default=200_000, help="how many spans (default: 200000, about 300 MB)")
    options = parser.parse_args(arguments)
    stop_on_terminate()
    with TraceStore(port=options.port, keep=options.keep) as server:
        print(f"receives OTLP and responds at {server.url}", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            server.shutdown()
    return 0
