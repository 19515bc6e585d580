# SPDX-License-Identifier: Apache-2.0
import threading
from collections.abc import Callable, Sequence

from opentelemetry.trace import SpanKind

from local.eventually import eventually
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.export import Send, SpanQueue
from orderflow.telemetry.tracing.spans import Span, Spans

Value = Callable[..., float | None]
NEVER = 3600.0


def ended(count: int) -> list[Span]:
    spans = Spans(lambda _: None)
    return [spans.start(str(number), SpanKind.INTERNAL, parent=None, attributes={}) for number in range(count)]


def queue(send: Send, *, size: int = 100, batch: int = 10, delay: float = NEVER, registry: MetricRegistry) -> SpanQueue:
    return SpanQueue(send, max_queue_size=size, max_batch_size=batch, delay_seconds=delay, registry=registry)


class Receiver:
    """Records what is sent. While it is not ``free`` it blocks."""

    def __init__(self, *, arrives: bool = True) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.free = threading.Event(), threading.Event()
        self._arrives = arrives

    def __call__(self, spans: Sequence[Span]) -> bool:
        self.begun.set()
        assert self.free.wait(30)
        self.batches.append([span.name for span in spans])
        return self._arrives


def test_a_receiver_that_is_too_slow_costs_spans_and_nothing_else(instruments: MetricRegistry, value: Value) -> None:
    receiver = Receiver(arrives=False)
    waiting = queue(receiver, size=10, registry=instruments)
    waiting.add(ended(10))
    assert receiver.begun.wait(10)
    for _ in range(25):
        waiting.add(ended(1))
    assert value("orderflow_spans_dropped_total", reason="queue_full") == 15
    waiting.close(timeout_seconds=0.01)
    receiver.free.set()
    eventually(lambda: value("orderflow_spans_dropped_total", reason="export_failed") == 20)


def test_a_whole_batch_is_sent_immediately_and_the_rest_at_the_end(instruments: MetricRegistry, value: Value) -> None:
    receiver = Receiver()
    receiver.free.set()
    waiting = queue(receiver, registry=instruments)
    waiting.add(ended(25))
    eventually(lambda: len(receiver.batches) == 2)
    assert [len(batch) for batch in receiver.batches] == [10, 10]
    waiting.close(timeout_seconds=10)
    assert [len(batch) for batch in receiver.batches] == [10, 10, 5]
    assert receiver.batches[0] == [str(number) for number in range(10)]
    assert value("orderflow_spans_exported_total") == 25


def test_a_few_spans_are_sent_after_the_delay(instruments: MetricRegistry) -> None:
    receiver = Receiver()
    receiver.free.set()
    waiting = queue(receiver, delay=0.001, registry=instruments)
    waiting.add(ended(3))
    eventually(lambda: receiver.batches == [["0", "1", "2"]])
    waiting.close(timeout_seconds=10)


def test_an_error_while_sending_does_not_end_the_export(instruments: MetricRegistry, value: Value) -> None:
    sent: list[int] = []

    def send(spans: Sequence[Span]) -> bool:
        sent.append(len(spans))
        if len(sent) == 1:
            raise RuntimeError("a fault")
        return True

    waiting = queue(send, registry=instruments)
    waiting.add(ended(20))
    waiting.close(timeout_seconds=10)
    assert sent == [10, 10]
    assert value("orderflow_spans_dropped_total", reason="export_failed") == 10
    assert value("orderflow_spans_exported_total") == 10
