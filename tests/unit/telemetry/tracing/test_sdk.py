# SPDX-License-Identifier: Apache-2.0
import gzip
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.sdk import BoundedProcessor, Pipeline, endpoint, pipeline, resource
from tests.rigs.scripted_broker import eventually

Value = Callable[..., float | None]
BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({BASE: "http://127.0.0.1:4318"}, "http://127.0.0.1:4318/v1/traces"),
        ({BASE: "http://127.0.0.1:4318/"}, "http://127.0.0.1:4318/v1/traces"),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/x"}, "http://b/x"),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "true"}, None),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "TRUE "}, None),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "false"}, "http://a/v1/traces"),
        ({BASE: "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_spans_go_where_the_standard_variables_say(environ: Mapping[str, str], expected: str | None) -> None:
    assert endpoint(environ) == expected


def test_a_process_is_named_by_its_name_unless_the_variables_say_otherwise() -> None:
    def name(**environ: str) -> object:
        return resource("orders", "1.0", environ).attributes["service.name"]

    assert name() == "orders"
    assert name(OTEL_RESOURCE_ATTRIBUTES="service.name=shop,a=b%20c") == "shop"
    assert name(OTEL_RESOURCE_ATTRIBUTES="service.name=shop", OTEL_SERVICE_NAME="till") == "till"
    attributes = resource("orders", "1.0", {"OTEL_RESOURCE_ATTRIBUTES": "a=b%20c,"}).attributes
    assert (attributes["a"], attributes["service.version"]) == ("b c", "1.0")


class Receiver(HTTPServer):
    """An OTLP receiver that keeps what it got."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.services: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Take)


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {item.key: item.value.string_value for item in group.resource.attributes}
            self.server.services.add(named["service.name"])
            self.server.spans += [span.name for scope in group.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_arrive_over_otlp_and_are_counted(receiver: Receiver, instruments: MetricRegistry, value: Value) -> None:
    environ = {BASE: f"http://127.0.0.1:{receiver.server_port}"}
    lines = pipeline("orders", "1.0", environ, instruments=instruments)
    assert lines is not None
    lines.edge.start_span("request").end()
    lines.inner.start_span("batch").end()
    lines.shutdown(timeout_seconds=10)
    assert sorted(receiver.spans) == ["batch", "request"]
    assert receiver.services == {"orders"}
    assert value("orderflow_spans_exported_total") == 2


class Stuck(SpanExporter):
    """An exporter that waits until it is let go, and then fails."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        self.free.wait(30)
        return SpanExportResult.FAILURE


def test_a_receiver_that_is_too_slow_costs_spans_and_nothing_else(instruments: MetricRegistry, value: Value) -> None:
    exporter = Stuck()
    processor = BoundedProcessor(exporter, environ={"OTEL_BSP_MAX_QUEUE_SIZE": "10"}, instruments=instruments)
    lines = Pipeline(processor, resource=Resource.get_empty(), environ={})
    for _ in range(10):
        lines.inner.start_span("x").end()
    assert exporter.begun.wait(10)
    for _ in range(25):
        lines.inner.start_span("x").end()
    assert value("orderflow_spans_dropped_total", reason="queue_full") == 15
    lines.shutdown(timeout_seconds=0.01)
    exporter.free.set()
    eventually(lambda: value("orderflow_spans_dropped_total", reason="export_failed") == 20)


def test_no_pipeline_is_made_when_tracing_is_off() -> None:
    assert pipeline("orders", "1.0", {}) is None
