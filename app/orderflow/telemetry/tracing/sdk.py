# SPDX-License-Identifier: Apache-2.0
"""Exports spans with the OpenTelemetry SDK, in the background, with a bounded queue; counts exported and dropped spans.

The SDK and its exporter read the standard ``OTEL_*`` variables from the environment of the process: endpoint, headers,
compression, timeouts, sampler, limits, resource attributes. This module sets only values that differ from the SDK's.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE, OTEL_SPAN_LINK_COUNT_LIMIT
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased

from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.semconv import SCHEMA_URL, SCOPE, SERVICE_NAME, SERVICE_VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

MAX_QUEUE_SIZE = 8192
"""Maximum number of spans that wait for export, unless OTEL_BSP_MAX_QUEUE_SIZE is set.

With the SDK's 2048 a consumer that works through a backlog with every order traced loses a quarter of its spans
(2,200 messages/s); with 8192 none. ``python -m tests.bench.telemetry_cost`` prints both.
"""
MAX_LINKS = 1024
"""Maximum number of links of a span, unless OTEL_SPAN_LINK_COUNT_LIMIT is set: one for each sampled message of a batch.

A batch has 250 messages by default and 1000 at most; the SDK's 128 would drop links.
"""


class CountingExporter(SpanExporter):
    """Counts the spans that another exporter exports or fails to export."""

    def __init__(self, exporter: SpanExporter, registry: MetricRegistry | None, taken: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._exported = registry.counter(catalogue.SPANS_EXPORTED) if registry else None
        self._failed = registry.counter(catalogue.SPANS_DROPPED, "export_failed") if registry else None
        self._taken = taken

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export and count. A failed export is final: the exporter has retried it."""
        self._taken(len(spans))
        result = self._exporter.export(spans)
        counter = self._exported if result is SpanExportResult.SUCCESS else self._failed
        if counter is not None:
            counter.inc(len(spans))
        return result

    def shutdown(self) -> None:
        """Shut the other exporter down."""
        self._exporter.shutdown()


class BoundedProcessor(SpanProcessor):
    """Passes ended spans to a background thread. When the queue is full, new spans are dropped and counted.

    The SDK's own processor drops the oldest spans and counts nothing.
    """

    def __init__(self, exporter: SpanExporter, *, max_queue_size: int, registry: MetricRegistry | None = None) -> None:
        self._capacity = max_queue_size
        self._waiting = 0
        self._lock = threading.Lock()
        self._dropped = registry.counter(catalogue.SPANS_DROPPED, "queue_full") if registry else None
        counting = CountingExporter(exporter, registry, self._taken)
        # The SDK refuses a batch larger than the queue, so a small queue needs a small batch.
        batch_size = None if max_queue_size >= _SDK_BATCH_SIZE else max_queue_size
        self._inner = BatchSpanProcessor(counting, max_queue_size=max_queue_size, max_export_batch_size=batch_size)

    def on_end(self, span: ReadableSpan) -> None:
        """Queue an ended span if it is sampled and the queue has room."""
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
        """Export the queue, then end the thread."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export the queue, in this thread."""
        return self._inner.force_flush(timeout_millis)

    def _taken(self, count: int) -> None:
        with self._lock:
            self._waiting -= count


_SDK_BATCH_SIZE = 512
"""The SDK's default batch size."""


class Pipeline:
    """Two tracers over one processor.

    ``edge`` samples new requests as configured by OTEL_TRACES_SAMPLER. ``inner`` records every child of a sampled span,
    and its own root spans: batches and commands.
    """

    def __init__(self, processor: SpanProcessor, *, resource: Resource, environ: Mapping[str, str]) -> None:
        self._processor = processor
        limits = SpanLimits(max_links=None if environ.get(OTEL_SPAN_LINK_COUNT_LIMIT) else MAX_LINKS)
        edge = TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
        self.provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON), resource=resource, span_limits=limits, shutdown_on_exit=False
        )
        edge.add_span_processor(processor)
        self.provider.add_span_processor(processor)
        self.edge: Tracer = edge.get_tracer(SCOPE, schema_url=SCHEMA_URL)
        self.inner: Tracer = self.provider.get_tracer(SCOPE, schema_url=SCHEMA_URL)
        self.samples_requests = edge.sampler.should_sample(None, 0, "request").decision is not Decision.DROP
        """False when the edge sampler drops everything: then no trace begins here, not even for a batch."""

    def shutdown(self, *, timeout_seconds: float) -> None:
        """Export the queue, for at most ``timeout_seconds``: an unavailable collector must not delay the exit."""
        thread = threading.Thread(target=self._processor.shutdown, name="spans shutdown", daemon=True)
        thread.start()
        thread.join(timeout_seconds)
        if thread.is_alive():
            log.warning("spans.not_flushed", extra={"timeout_seconds": timeout_seconds})


def start_pipeline(
    process_name: str, version: str, environ: Mapping[str, str], *, registry: MetricRegistry | None = None
) -> Pipeline:
    """The pipeline of this process. Call it only when ``tracing_enabled``: its imports cost a process 0.2 s of CPU."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    size = MAX_QUEUE_SIZE
    if environ.get(OTEL_BSP_MAX_QUEUE_SIZE):
        # The SDK's own parser of the variable has no public name.
        size = int(BatchSpanProcessor._default_max_queue_size())  # type: ignore[no-untyped-call]  # noqa: SLF001
    processor = BoundedProcessor(OTLPSpanExporter(), max_queue_size=size, registry=registry)
    return Pipeline(processor, resource=resource(process_name, version), environ=environ)


def resource(process_name: str, version: str) -> Resource:
    """The resource of every span of this process; the standard variables override name and version."""
    given = OTELResourceDetector().detect().attributes
    return Resource.create({SERVICE_NAME: process_name, SERVICE_VERSION: version, **given})
