# SPDX-License-Identifier: Apache-2.0
import gzip
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext

from local.eventually import eventually
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.sdk import BoundedProcessor, Pipeline, resource, start_pipeline
from orderflow.telemetry.tracing.switch import tracing_enabled

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
    assert resource("orders", "1.0").attributes["service.name"] == "orders"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,a=b%20c")
    attributes = resource("orders", "1.0").attributes
    assert (attributes["a"], attributes["service.name"], attributes["service.version"]) == ("b c", "shop", "1.0")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "till")
    assert resource("orders", "1.0").attributes["service.name"] == "till"


@pytest.mark.parametrize(
    ("sampler", "ratio", "samples"),
    [
        ("always_on", "", True),
        ("always_off", "", False),
        ("traceidratio", "0.01", True),
        ("traceidratio", "0", False),
        ("parentbased_always_on", "", True),
        ("parentbased_always_off", "", False),
        ("parentbased_traceidratio", "0.01", True),
        ("parentbased_traceidratio", "0", False),
    ],
)
def test_the_sampler_of_requests_is_the_standard_one(
    monkeypatch: pytest.MonkeyPatch, sampler: str, ratio: str, samples: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    pipeline = Pipeline(SimpleSpanProcessor(BlockedExporter()), resource=Resource.get_empty(), environ={})
    assert pipeline.samples_requests is samples


@pytest.mark.parametrize(("ratio", "sampled"), [("1", True), ("0", False)])
def test_a_request_is_sampled_as_the_sampler_says_and_a_batch_always(
    monkeypatch: pytest.MonkeyPatch, ratio: str, sampled: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    pipeline = Pipeline(SimpleSpanProcessor(BlockedExporter()), resource=Resource.get_empty(), environ={})
    request, batch = pipeline.edge.start_span("request"), pipeline.inner.start_span("batch")
    assert (request.get_span_context().trace_flags.sampled, batch.get_span_context().trace_flags.sampled) == (
        sampled,
        True,
    )


@pytest.mark.parametrize(("given", "links"), [("", 300), ("128", 128)])
def test_a_span_has_a_link_for_each_message_of_a_batch(monkeypatch: pytest.MonkeyPatch, given: str, links: int) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", given)
    environ = {"OTEL_SPAN_LINK_COUNT_LIMIT": given}
    pipeline = Pipeline(SimpleSpanProcessor(BlockedExporter()), resource=Resource.get_empty(), environ=environ)
    context = SpanContext(1, 1, is_remote=True)
    span = pipeline.inner.start_span("batch", links=[Link(context) for _ in range(300)])
    assert isinstance(span, ReadableSpan) and len(span.links) == links


class Receiver(HTTPServer):
    """An OTLP receiver that records spans and services."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.services: set[str] = set()
        super().__init__(("127.0.0.1", 0), _ExportHandler)


class _ExportHandler(BaseHTTPRequestHandler):
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
    lines = start_pipeline("orders", "1.0", {}, registry=instruments)
    lines.edge.start_span("request").end()
    lines.inner.start_span("batch").end()
    lines.shutdown(timeout_seconds=10)
    assert sorted(receiver.spans) == ["batch", "request"]
    assert receiver.services == {"orders"}
    assert value("orderflow_spans_exported_total") == 2


class BlockedExporter(SpanExporter):
    """An exporter that blocks until it is released, and then fails."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        self.free.wait(30)
        return SpanExportResult.FAILURE


def test_a_receiver_that_is_too_slow_costs_spans_and_nothing_else(instruments: MetricRegistry, value: Value) -> None:
    exporter = BlockedExporter()
    processor = BoundedProcessor(exporter, max_queue_size=10, registry=instruments)
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
