# SPDX-License-Identifier: Apache-2.0
import gzip
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanKind

from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.sdk import resource, start_pipeline
from orderflow.telemetry.tracing.switch import command_provider, tracing_enabled
from orderflow.version import VERSION

Value = Callable[..., float | None]
BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "enabled"),
    [
        ({}, False),
        ({BASE: "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/x"}, True),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "true"}, False),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "TRUE "}, False),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "false"}, True),
        ({BASE: "http://a", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_a_process_traces_when_it_has_an_endpoint_and_nothing_is_switched_off(
    environ: Mapping[str, str], enabled: bool
) -> None:
    assert tracing_enabled(environ) is enabled


def test_spans_bear_the_name_of_the_process_unless_the_variables_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource("orders").attributes["service.name"] == "orders"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,a=b%20c")
    attributes = resource("orders").attributes
    assert (attributes["a"], attributes["service.name"], attributes["service.version"]) == ("b c", "shop", VERSION)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "till")
    assert resource("orders").attributes["service.name"] == "till"


_DECOMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


class Receiver(HTTPServer):
    """An OTLP receiver that records spans and services."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.services: set[str] = set()
        self.requests: list[tuple[str, str | None, str | None]] = []
        super().__init__(("127.0.0.1", 0), _ExportHandler)


class _ExportHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers.get("Content-Encoding")
        self.server.requests.append((self.path, self.headers.get("x-tenant"), encoding))
        if encoding is not None:
            body = _DECOMPRESS[encoding](body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {item.key: item.value.string_value for item in group.resource.attributes}
            self.server.services.add(named["service.name"])
            self.server.spans += [span.name for scope in group.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Do not log."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_arrive_over_otlp_and_are_counted(
    receiver: Receiver, instruments: MetricRegistry, value: Value, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE, f"http://127.0.0.1:{receiver.server_port}")
    pipeline = start_pipeline("orders", {}, registry=instruments)
    spans = pipeline.spans
    spans.end([spans.start(name, SpanKind.INTERNAL, parent=None, attributes={}) for name in ("request", "batch")])
    pipeline.shutdown(timeout_seconds=10)
    assert sorted(receiver.spans) == ["batch", "request"]
    assert receiver.services == {"orders"}
    assert value("orderflow_spans_exported_total") == 2


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_the_variables_of_the_exporter_apply(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}/other")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    pipeline = start_pipeline("orders", {})
    pipeline.spans.end([pipeline.spans.start("x", SpanKind.INTERNAL, parent=None, attributes={})])
    pipeline.shutdown(timeout_seconds=10)
    assert receiver.requests == [("/other", "shop", compression)]
    assert receiver.spans == ["x"]


def test_a_command_exports_the_spans_of_libraries_at_its_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{receiver.server_port}"
    monkeypatch.setenv(BASE, endpoint)
    with command_provider("dead-letters", {BASE: endpoint}) as provider:
        assert provider is not None
        provider.get_tracer("library").start_span("replay").end()
    assert (receiver.spans, receiver.services) == (["replay"], {"dead-letters"})
    with command_provider("dead-letters", {}) as provider:
        assert provider is None
