# SPDX-License-Identifier: Apache-2.0
"""The CPU cost of telemetry per message: metrics alone, and metrics with traces at several sampling ratios.

Run as ``python -m tests.bench.telemetry_cost``. It calls the instrumentation as the core does for batches of 250
messages that publish 250 events. A background thread encodes the spans and discards them. It prints microseconds of CPU
per message, as the median of interleaved rounds, for all threads.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from prometheus_client import CollectorRegistry

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.broker import Delivery, Properties, Publication
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.instrumentation import BatchResult, MessagingInstrumentation
from orderflow.telemetry.fanout import fan_out
from orderflow.telemetry.metrics.recorder import Recorder
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.export import SpanQueue
from orderflow.telemetry.tracing.otlp import SpanEncoder
from orderflow.telemetry.tracing.sdk import MAX_QUEUE_SIZE
from orderflow.telemetry.tracing.spans import Span, Spans
from orderflow.telemetry.tracing.tracer import Tracing

BATCH, BATCHES, ROUNDS = 250, 40, 7
OCCURRED = "2026-01-01T12:00:00.123456+00:00"


ENCODER = SpanEncoder(Resource.get_empty(), SpanLimits())


def discard(spans: Sequence[Span]) -> bool:
    """Encode spans as for an export, and discard them."""
    ENCODER.encode(spans)
    return True


def queue(max_queue_size: int, registry: MetricRegistry | None = None) -> SpanQueue:
    return SpanQueue(discard, max_queue_size=max_queue_size, max_batch_size=512, delay_seconds=5.0, registry=registry)


def headers(position: int, ratio: float) -> dict[str, str | int]:
    sampled = ratio > 0 and position % round(1 / ratio) == 0
    text = f"00-{position + 1:032x}-{position + 1:016x}-0{3 if sampled else 2}"
    return {"traceparent": text, "x-occurred-at": OCCURRED, "x-causation-id": str(uuid4())}


def deliveries(ratio: float) -> list[Delivery]:
    return [
        Delivery(
            position,
            "order_events",
            "order.created",
            False,
            Properties(
                message_id=str(uuid4()),
                correlation_id=str(uuid4()),
                type="ORDER_CREATED",
                timestamp=1767268800,
                headers=headers(position, ratio),
            ),
            b"x" * 300,
            0.0,
        )
        for position in range(BATCH)
    ]


def batch(instrumentation: MessagingInstrumentation, received: Sequence[Delivery]) -> None:
    """The calls of the core to its instrumentation for one batch and its events."""
    span = instrumentation.batch_received("inventory_updates", received)
    publications = [
        Publication(_KEY, "order_events", "inventory.reserved", Properties(headers=dict(span.headers(position))), b"x")
        for position in range(len(received))
    ]
    instrumentation.created(publications)
    group = instrumentation.publishing(publications)
    span.handled(BatchResult(done=len(received), published=len(received), statements=6))
    group.settled(confirmed=len(received), failures={}, seconds=0.01)


_KEY = uuid4()


def instrumented(*, traced: bool) -> tuple[MessagingInstrumentation, Callable[[], None]]:
    recorder = Recorder(MetricRegistry(CollectorRegistry()), SystemClock())
    if not traced:
        return fan_out(Instrumentation, (Tracing(), recorder)), lambda: None
    waiting = queue(MAX_QUEUE_SIZE)
    instrumentation = fan_out(Instrumentation, (Tracing(Spans(waiting.add)), recorder))
    return instrumentation, lambda: waiting.close(timeout_seconds=10)


def microseconds(instrumentation: MessagingInstrumentation, received: Sequence[Delivery]) -> float:
    begun = time.process_time()
    for _ in range(BATCHES):
        batch(instrumentation, received)
    return (time.process_time() - begun) / (BATCHES * BATCH) * 1e6


def dropped(max_queue_size: int) -> tuple[int, float]:
    """Spans dropped, and messages a second, when a backlog is consumed with every message traced."""
    collectors = CollectorRegistry()
    waiting = queue(max_queue_size, MetricRegistry(collectors))
    instrumentation, received = fan_out(Instrumentation, (Tracing(Spans(waiting.add)),)), deliveries(1)
    begun = time.perf_counter()
    for _ in range(BATCHES):
        batch(instrumentation, received)
    seconds = time.perf_counter() - begun
    waiting.close(timeout_seconds=30)
    count = collectors.get_sample_value("orderflow_spans_dropped_total", {"reason": "queue_full"})
    return int(count or 0), BATCHES * BATCH / seconds


def main() -> None:
    nothing = lambda: None  # noqa: E731
    cases: dict[str, tuple[tuple[MessagingInstrumentation, Callable[[], None]], Sequence[Delivery]]] = {
        "no hooks": ((MessagingInstrumentation(), nothing), deliveries(0)),
        "metrics, tracing off": (instrumented(traced=False), deliveries(0)),
        "metrics, traces 0 %": (instrumented(traced=True), deliveries(0)),
        "metrics, traces 1 %": (instrumented(traced=True), deliveries(0.01)),
        "metrics, traces 10 %": (instrumented(traced=True), deliveries(0.1)),
        "metrics, traces 100 %": (instrumented(traced=True), deliveries(1)),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, ((instrumentation, _), received) in cases.items():
            found[name].append(microseconds(instrumentation, received))
    floor = statistics.median(found["no hooks"])
    for name, values in found.items():
        print(f"{name:<24} {statistics.median(values) - floor:7.2f} us per message (min {min(values) - floor:.2f})")
    for (_, shutdown), _ in cases.values():
        shutdown()
    for size in (2048, MAX_QUEUE_SIZE):
        lost, rate = dropped(size)
        print(f"a queue of {size} spans: {lost} of about {3 * BATCHES * BATCH} dropped at {rate:.0f} messages/s")


if __name__ == "__main__":
    main()
