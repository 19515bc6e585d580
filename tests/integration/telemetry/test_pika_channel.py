# SPDX-License-Identifier: Apache-2.0
"""The one place where opentelemetry-instrumentation-pika is used, on the real broker."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from uuid import uuid4

import pika
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import UnroutableError
from prometheus_client import CollectorRegistry

from local.eventually import eventually
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.broker import Properties, Publication
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.telemetry.fanout import fan_out
from orderflow.telemetry.metrics.recorder import Recorder
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.pika_channel import TracedChannel
from orderflow.telemetry.tracing.propagation import TRACEPARENT
from tests.rigs.traces import Traces

pytestmark = pytest.mark.integration

SCOPE = "opentelemetry.instrumentation.pika.pika_instrumentor"
STORED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Recorded:
    """The SDK's provider, as commands use it, and what it recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def finished(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def traces() -> Recorded:
    return Recorded()


@pytest.fixture
def channel(vhost: str) -> Iterator[BlockingChannel]:
    """A channel with confirms and one queue, ``dead_letters``."""
    connection = pika.BlockingConnection(pika.URLParameters(vhost))
    opened = connection.channel()
    opened.confirm_delivery()
    opened.queue_declare("dead_letters")
    yield opened
    connection.close()


def publish(traced: TracedChannel, *, key: str = "dead_letters", **headers: object) -> pika.BasicProperties:
    """Publish one message with these headers; the properties object of the caller."""
    properties = pika.BasicProperties(
        message_id="m-1",
        correlation_id="order-1",
        type="ORDER_CREATED",
        content_type="application/json",
        delivery_mode=2,
        headers=dict(headers),
    )
    traced.publish(exchange="", routing_key=key, body=b"{}", properties=properties)
    return properties


def received(channel: BlockingChannel) -> pika.BasicProperties:
    method, properties, _ = channel.basic_get("dead_letters", auto_ack=True)
    assert method is not None and properties is not None
    return properties


def test_the_versions_are_those_whose_defects_are_known() -> None:
    assert version("opentelemetry-instrumentation-pika") == "0.66b1"
    assert version("opentelemetry-sdk") == "1.45.1"


def test_a_publish_has_exactly_one_span(channel: BlockingChannel, traces: Recorded) -> None:
    traced = TracedChannel(channel, traces.provider)
    publish(traced)
    publish(traced)
    assert [span.kind for span in traces.finished] == [SpanKind.PRODUCER] * 2
    assert {span.instrumentation_scope and span.instrumentation_scope.name for span in traces.finished} == {SCOPE}
    assert len({span.context.trace_id for span in traces.finished}) == 2
    assert (traces.finished[0].attributes or {})["orderflow.order_id"] == "order-1"
    assert (traces.finished[0].attributes or {})["messaging.message.id"] == "m-1"


def test_a_channel_that_is_traced_twice_still_makes_one_span(channel: BlockingChannel, traces: Recorded) -> None:
    TracedChannel(channel, traces.provider)
    publish(TracedChannel(channel, traces.provider))
    assert len(traces.finished) == 1


def test_a_replayed_message_stays_in_its_trace(channel: BlockingChannel, traces: Recorded) -> None:
    publish(TracedChannel(channel, traces.provider), traceparent=STORED, tracestate="a=1")
    (span,) = traces.finished
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent and f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    headers = received(channel).headers
    assert headers[TRACEPARENT].split("-")[1:3] == [
        "0af7651916cd43dd8448eb211c80319c",
        f"{span.context.span_id:016x}",
    ]
    assert headers["tracestate"] == "a=1"


def test_a_message_that_is_not_sampled_stays_so(channel: BlockingChannel, traces: Recorded) -> None:
    publish(TracedChannel(channel, traces.provider), traceparent=UNSAMPLED)
    assert len(traces.finished) == 0
    _, trace_id, _, flags = received(channel).headers[TRACEPARENT].split("-")
    assert trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert int(flags, 16) & 1 == 0


def test_the_callers_properties_stay_as_they_are_and_arrive_whole(channel: BlockingChannel, traces: Recorded) -> None:
    properties = publish(TracedChannel(channel, traces.provider), traceparent=STORED, note="x")
    assert properties.headers == {"traceparent": STORED, "note": "x"}
    arrived = received(channel)
    for name in ("message_id", "correlation_id", "type", "content_type", "delivery_mode"):
        assert getattr(arrived, name) == getattr(properties, name)
    assert arrived.headers["note"] == "x"


def test_a_message_that_no_queue_takes_is_an_error_of_its_span_too(channel: BlockingChannel, traces: Recorded) -> None:
    with pytest.raises(UnroutableError):
        publish(TracedChannel(channel, traces.provider), key="nowhere")
    (span,) = traces.finished
    assert not span.status.is_ok


def test_without_tracing_the_context_is_passed_on(channel: BlockingChannel) -> None:
    publish(TracedChannel(channel, None), traceparent=STORED, tracestate="a=1")
    headers = received(channel).headers
    assert (headers["traceparent"], headers["tracestate"]) == (STORED, "a=1")


def test_other_channels_and_the_hot_path_are_never_traced_by_it(
    channel: BlockingChannel, vhost: str, traces: Recorded
) -> None:
    ours = Traces.in_memory()
    publish(TracedChannel(channel, traces.provider))
    assert not hasattr(Channel.basic_publish, "_original_function")
    assert not hasattr(BlockingChannel.basic_publish, "_original_function")
    other = channel.connection.channel()
    other.basic_publish("", "dead_letters", b"{}")
    recorder = Recorder(MetricRegistry(CollectorRegistry()), SystemClock())
    instrumentation = fan_out(Instrumentation, (ours.tracing, recorder))
    broker = RabbitMQBroker(
        vhost, window=100, instrumentation=instrumentation, clock=SystemClock(), connection_name="test"
    )
    broker.start()
    try:
        eventually(lambda: broker.publisher().room > 0)
        receipt = broker.publisher().publish([_publication(STORED), _publication(UNSAMPLED)])
        assert receipt.wait(10) and not receipt.failures
    finally:
        broker.close(timeout_seconds=5)
    eventually(lambda: len(ours.finished) == 1)
    assert len(traces.finished) == 1
    assert _contexts(channel)[-2:] == [STORED, UNSAMPLED]


def _publication(traceparent: str) -> Publication:
    properties = Properties(message_id=str(uuid4()), headers={"traceparent": traceparent})
    return Publication(uuid4(), "", "dead_letters", properties, b"{}")


def _contexts(channel: BlockingChannel) -> Sequence[str | None]:
    found = []
    while (properties := channel.basic_get("dead_letters", auto_ack=True)[1]) is not None:
        found.append((properties.headers or {}).get("traceparent"))
    return found
