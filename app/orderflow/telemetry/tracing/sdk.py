# SPDX-License-Identifier: Apache-2.0
"""What of the OpenTelemetry SDK is used: its configuration, samplers, resource and transport.

The SDK reads the standard ``OTEL_*`` variables from the environment of the process: endpoint, headers, compression,
timeouts, sampler, limits, resource attributes. This module sets only values that differ from the SDK's.
"""

import threading
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE, OTEL_SPAN_LINK_COUNT_LIMIT
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.export import SpanQueue, wait_for_flush
from orderflow.telemetry.tracing.otlp import SpanEncoder
from orderflow.telemetry.tracing.sampling import RequestSampling
from orderflow.telemetry.tracing.semconv import SERVICE_NAME, SERVICE_VERSION
from orderflow.telemetry.tracing.spans import Spans
from orderflow.version import VERSION

MAX_QUEUE_SIZE = 8192
"""Maximum number of spans that wait for export, unless OTEL_BSP_MAX_QUEUE_SIZE is set.

While every span of 20,000 messages/s is recorded, more than any process handles, 8192 lose a fifth of them and the
SDK's 2048 half. ``python -m tests.bench.telemetry_cost`` prints both.
"""
MAX_LINKS = 1024
"""Maximum number of links of a span, unless OTEL_SPAN_LINK_COUNT_LIMIT is set: one for each sampled message of a batch.

A batch has 250 messages by default and 1000 at most; the SDK's 128 would drop links.
"""


class Pipeline:
    """``spans`` records and exports; ``sampling`` decides which requests are recorded."""

    def __init__(self, queue: SpanQueue, sampling: RequestSampling) -> None:
        self.spans = Spans(queue.add)
        self.sampling = sampling
        self._queue = queue

    def shutdown(self, *, timeout_seconds: float) -> None:
        """Export the queue, for at most that long."""
        self._queue.close(timeout_seconds=timeout_seconds)


class EncodedExporter(OTLPSpanExporter):
    """The SDK's exporter, with its endpoint, headers, TLS, compression and retries, for encoded requests."""

    def send(self, request: bytes) -> bool:
        """Whether the request has arrived."""
        return self._client.export(request).success


def start_pipeline(
    process_name: str, environ: Mapping[str, str], *, registry: MetricRegistry | None = None
) -> Pipeline:
    """The pipeline of this process. Call it only when ``tracing_enabled``: its imports cost a process 0.2 s of CPU."""
    exporter = EncodedExporter()
    encoder = SpanEncoder(resource(process_name), span_limits(environ))
    queue = SpanQueue(
        lambda spans: exporter.send(encoder.encode(spans)),
        max_queue_size=_number("max_queue_size") if environ.get(OTEL_BSP_MAX_QUEUE_SIZE) else MAX_QUEUE_SIZE,
        max_batch_size=_number("max_export_batch_size"),
        delay_seconds=_number("schedule_delay_millis") / 1000,
        registry=registry,
    )
    return Pipeline(queue, RequestSampling(TracerProvider(shutdown_on_exit=False).sampler))


def start_provider(process_name: str) -> TracerProvider:
    """The SDK's own pipeline, for the few spans of a command that libraries record. End it with ``shut_down``."""
    provider = TracerProvider(resource=resource(process_name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def shut_down(provider: TracerProvider, *, timeout_seconds: float) -> None:
    """Export what the provider recorded, for at most that long: the SDK would wait 30 s for a collector."""
    thread = threading.Thread(target=provider.shutdown, name="spans shutdown", daemon=True)
    thread.start()
    wait_for_flush(thread, timeout_seconds=timeout_seconds)


def resource(process_name: str) -> Resource:
    """The resource of every span of this process; the standard variables override name and version."""
    given = OTELResourceDetector().detect().attributes
    return Resource.create({SERVICE_NAME: process_name, SERVICE_VERSION: VERSION, **given})


def span_limits(environ: Mapping[str, str]) -> SpanLimits:
    """The SDK's limits of spans, but with more links."""
    return SpanLimits(max_links=None if environ.get(OTEL_SPAN_LINK_COUNT_LIMIT) else MAX_LINKS)


def _number(option: str) -> int:
    """An option of the batch processor, from its variable; the SDK's parsers have no public name."""
    parse = getattr(BatchSpanProcessor, f"_default_{option}")
    return int(parse())
