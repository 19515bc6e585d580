# SPDX-License-Identifier: Apache-2.0
"""The way of spans out of the process: bounded, in the background, counted when they are lost."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.sampling import EVERYTHING_BELOW, edge_sampler
from orderflow.telemetry.tracing.semconv import SCHEMA_URL, SCOPE, SERVICE_NAME, SERVICE_VERSION
from orderflow.telemetry.tracing.variables import number

log = logging.getLogger(__name__)

LIMITS = SpanLimits(max_links=1024, max_span_attribute_length=1024)
"""The default of 128 links would cut a batch short."""


class CountingExporter(SpanExporter):
    """Counts what another exporter takes, and what it loses."""

    def __init__(
        self, exporter: SpanExporter, instruments: MetricRegistry | None, taken: Callable[[int], None]
    ) -> None:
        self._exporter = exporter
        self._exported = instruments.counter(catalogue.SPANS_EXPORTED) if instruments else None
        self._failed = instruments.counter(catalogue.SPANS_DROPPED, "export_failed") if instruments else None
        self._taken = taken

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export and count; a failed export is not tried again, the exporter has done so itself."""
        self._taken(len(spans))
        result = self._exporter.export(spans)
        counter = self._exported if result is SpanExportResult.SUCCESS else self._failed
        if counter is not None:
            counter.inc(len(spans))
        return result

    def shutdown(self) -> None:
        """Close the other exporter."""
        self._exporter.shutdown()


class BoundedProcessor(SpanProcessor):
    """Hands ended spans to a background thread; when too many wait, new ones are dropped and counted.

    By default so many may wait as six seconds of a flash sale make with every order traced (250 orders/s, 20 spans
    each); the standard ``OTEL_BSP_*`` variables say otherwise.
    """

    def __init__(
        self, exporter: SpanExporter, *, environ: Mapping[str, str], instruments: MetricRegistry | None = None
    ) -> None:
        self._capacity = number(environ, "OTEL_BSP_MAX_QUEUE_SIZE")
        self._waiting = 0
        self._lock = threading.Lock()
        self._dropped = instruments.counter(catalogue.SPANS_DROPPED, "queue_full") if instruments else None
        self._inner = BatchSpanProcessor(
            CountingExporter(exporter, instruments, self._taken),
            max_queue_size=self._capacity,
            schedule_delay_millis=number(environ, "OTEL_BSP_SCHEDULE_DELAY"),
            max_export_batch_size=min(number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"), self._capacity),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue an ended span if it is sampled and there is room."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            room = self._waiting < self._capacity
            self._waiting += room
        if room:
            self._inner.on_end(span)
        elif self._dropped is not None:
            self._dropped.inc()

    def shutdown(self) -> None:
        """Export what waits, then end the thread."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export what waits, in this thread."""
        return self._inner.force_flush(timeout_millis)

    def _taken(self, count: int) -> None:
        with self._lock:
            self._waiting -= count


class Pipeline:
    """Two tracers over one processor: ``edge`` decides about new requests, ``inner`` follows what was decided."""

    def __init__(self, processor: SpanProcessor, *, resource: Resource, environ: Mapping[str, str]) -> None:
        self._processor = processor
        self.provider = _provider(processor, resource, inner=True, environ=environ)
        self.edge = _tracer(_provider(processor, resource, inner=False, environ=environ))
        self.inner = _tracer(self.provider)

    def shutdown(self, *, timeout_seconds: float) -> None:
        """Export what is left, for at most that long; a receiver that is away must not hold up the process."""
        thread = threading.Thread(target=self._processor.shutdown, name="spans shutdown", daemon=True)
        thread.start()
        thread.join(timeout_seconds)
        if thread.is_alive():
            log.warning("spans.not_flushed", extra={"timeout_seconds": timeout_seconds})


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Where spans go, or None when tracing is off: no endpoint is set, or the SDK or the exporter is disabled."""
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if off or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return None
    traces = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    return traces or (f"{base.rstrip('/')}/v1/traces" if base else None)


def pipeline(
    process_name: str, version: str, environ: Mapping[str, str], *, instruments: MetricRegistry | None = None
) -> Pipeline | None:
    """The pipeline that the standard ``OTEL_*`` variables ask for, or None when tracing is off.

    Headers, compression, time-out and certificate the exporter reads itself, from the environment of the process.
    """
    url = endpoint(environ)
    if url is None:
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", "http/protobuf"}:
        log.warning("spans.protocol_unknown", extra={"protocol": protocol, "used": "http/protobuf"})
    processor = BoundedProcessor(OTLPSpanExporter(endpoint=url), environ=environ, instruments=instruments)
    return Pipeline(processor, resource=resource(process_name, version, environ), environ=environ)


def resource(process_name: str, version: str, environ: Mapping[str, str]) -> Resource:
    """What every span of this process says about it; ``OTEL_SERVICE_NAME`` wins over the process name."""
    pairs = (pair.partition("=") for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    given = {key.strip(): unquote(value.strip()) for key, _, value in pairs if key.strip()}
    attributes = {SERVICE_NAME: process_name, SERVICE_VERSION: version, **given}
    if environ.get("OTEL_SERVICE_NAME"):
        attributes[SERVICE_NAME] = environ["OTEL_SERVICE_NAME"]
    return Resource.create(attributes)


def _provider(processor: SpanProcessor, about: Resource, *, inner: bool, environ: Mapping[str, str]) -> TracerProvider:
    sampler = EVERYTHING_BELOW if inner else edge_sampler(environ)
    provider = TracerProvider(sampler=sampler, resource=about, span_limits=LIMITS, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(SCOPE, schema_url=SCHEMA_URL)
