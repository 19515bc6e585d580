# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from uuid import uuid4

import pytest
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from orderflow.messaging.broker import Delivery, Failure, Properties, Publication
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.instrumentation import BatchResult, PublishObserver
from orderflow.telemetry.tracing.propagation import is_sampled
from orderflow.telemetry.tracing.tracer import Tracing
from tests.rigs.scripted_broker import deliver
from tests.rigs.traces import Traces

Q = "inventory_updates"
STATE = {"tracestate": "a=1"}


def parent(number: int, *, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{number:032x}-{number:016x}-0{1 if sampled else 0}"}


def sampled_delivery(number: int = 1, **headers: object) -> Delivery:
    return deliver(headers={**parent(number), **headers})


def publication(headers: dict[str, str]) -> Publication:
    properties = Properties(message_id="m", correlation_id="order-1", type="ORDER_CREATED", headers=headers)
    return Publication(uuid4(), "order_events", "order.created", properties, b"{}")


def test_a_batch_has_one_span_linked_to_each_sampled_message(traces: Traces) -> None:
    deliveries = [sampled_delivery(1), deliver(headers=parent(2, sampled=False)), deliver(), sampled_delivery(4)]
    traces.tracing.batch_received(Q, deliveries).handled(BatchResult(done=4))
    (batch,) = [span for span in traces.finished if span.parent is None]
    assert batch.name == f"process {Q}"
    assert batch.kind is SpanKind.CONSUMER
    assert batch.attributes["messaging.batch.message_count"] == 4
    assert batch.attributes["messaging.destination.name"] == Q
    assert [link.trace_id for link in batch.links] == [1, 4]


def test_a_sampled_message_has_a_span_in_its_own_trace(traces: Traces) -> None:
    delivery = sampled_delivery(7)
    traces.tracing.batch_received(Q, [deliver(), delivery]).handled(BatchResult(done=2))
    (span,) = [span for span in traces.finished if span.parent is not None]
    assert (span.context.trace_id, span.parent and span.parent.span_id) == (7, 7)
    assert span.name == f"process {Q}"
    assert span.kind is SpanKind.CONSUMER
    expected = {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": f"order_events:{delivery.routing_key}:{Q}",
        "messaging.rabbitmq.destination.routing_key": delivery.routing_key,
        "messaging.rabbitmq.message.delivery_tag": 1,
        "messaging.message.id": delivery.properties.message_id,
        "messaging.message.conversation_id": delivery.properties.correlation_id,
        "orderflow.order_id": delivery.properties.correlation_id,
        "server.address": "broker",
        "server.port": 5672,
    }
    assert {name: span.attributes.get(name) for name in expected} == expected
    assert span.status is StatusCode.UNSET


def test_what_a_sampled_message_causes_descends_from_its_span(traces: Traces) -> None:
    batch = traces.tracing.batch_received(Q, [sampled_delivery(7, tracestate="a=1")])
    headers = batch.headers(0)
    batch.handled(BatchResult(done=1))
    (span,) = [span for span in traces.finished if span.parent is not None]
    assert headers["traceparent"].split("-")[1:3] == [f"{7:032x}", f"{span.context.span_id:016x}"]
    assert is_sampled(headers)
    assert headers["tracestate"] == "a=1"


def test_the_context_of_an_unsampled_message_is_forwarded_untouched(traces: Traces) -> None:
    headers = {**parent(3, sampled=False), "tracestate": "a=1"}
    batch = traces.tracing.batch_received(Q, [deliver(headers=headers), deliver()])
    assert batch.headers(0) == headers
    assert batch.headers(1) == {}
    batch.handled(BatchResult(done=2))
    assert len(traces.finished) == 1


def test_a_message_with_a_broken_context_is_not_traced_and_does_no_harm(traces: Traces) -> None:
    broken = "zz-" + "0" * 49 + "-01"
    batch = traces.tracing.batch_received(Q, [deliver(headers={"traceparent": broken, "tracestate": 7})])
    batch.headers(0)
    batch.handled(BatchResult(done=1))
    assert len(traces.finished) == 1


def test_retries_and_dead_letters_show_their_reason(traces: Traces) -> None:
    deliveries = [sampled_delivery(1, **{"x-retry-count": 3}), sampled_delivery(2), sampled_delivery(3)]
    outcomes = BatchResult(done=1, retried=[(0, "handler_error", 5.0)], dead=[(2, "not_json")])
    traces.tracing.batch_received(Q, deliveries).handled(outcomes)
    spans = {span.context.trace_id: span for span in traces.finished if span.parent is not None}
    assert spans[1].attributes["orderflow.retry.count"] == 3
    assert spans[1].attributes["orderflow.reason"] == "handler_error"
    assert spans[1].attributes["orderflow.retry.delay_seconds"] == 5.0
    assert spans[3].attributes["orderflow.outcome"] == "dead_lettered"
    assert spans[3].attributes["error.type"] == "not_json"
    assert [spans[number].status for number in (1, 2, 3)] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]


def test_a_redelivery_is_marked_in_its_span(traces: Traces) -> None:
    old = sampled_delivery(1)
    again = Delivery(old.tag, old.exchange, old.routing_key, True, old.properties, old.body, 0.0)
    traces.tracing.batch_received(Q, [again]).handled(BatchResult(done=1))
    (span,) = [span for span in traces.finished if span.parent is not None]
    assert span.attributes["orderflow.redelivered"] is True


def test_failed_attempts_stay_in_the_same_batch_span(traces: Traces) -> None:
    batch = traces.tracing.batch_received(Q, [sampled_delivery(1)])
    batch.failed(DatabaseUnavailable("away"))
    batch.failed(DatabaseUnavailable("away"))
    assert len(traces.finished) == 0
    batch.handled(BatchResult(done=1))
    (span,) = [span for span in traces.finished if span.parent is None]
    assert span.attributes["orderflow.failed_attempts"] == 2
    assert list(span.events) == ["attempt failed"] * 2


def test_a_batch_links_to_more_messages_than_the_sdk_allows_by_default(traces: Traces) -> None:
    deliveries = [sampled_delivery(number) for number in range(1, 1001)]
    traces.tracing.batch_received(Q, deliveries).handled(BatchResult(done=1000))
    (batch,) = [span for span in traces.finished if span.parent is None]
    assert len(batch.links) == 1000


def test_the_thread_is_in_the_batch_span_until_it_is_handled(traces: Traces) -> None:
    batch = traces.tracing.batch_received(Q, [deliver()])
    assert get_current_span().get_span_context().is_valid
    batch.handled(BatchResult(done=1))
    assert not get_current_span().get_span_context().is_valid


def test_batches_never_nest_in_a_context_that_was_left_behind(traces: Traces) -> None:
    first = traces.tracing.batch_received(Q, [deliver()])
    traces.tracing.batch_received(Q, [deliver()]).handled(BatchResult(done=1))
    first.handled(BatchResult(done=1))
    assert [span.parent for span in traces.finished] == [None, None]


def test_a_sampled_event_has_a_producer_span_whose_context_travels_with_its_message(traces: Traces) -> None:
    publications = [publication({}), publication(parent(5, sampled=False)), publication({**parent(6), **STATE})]
    headers = traces.tracing.created(publications)
    (span,) = traces.finished
    assert (span.name, span.kind) == ("create order_events", SpanKind.PRODUCER)
    assert (span.context.trace_id, span.parent and span.parent.span_id) == (6, 6)
    assert span.attributes["messaging.operation.type"] == "create"
    assert span.attributes["messaging.destination.name"] == "order_events:order.created"
    assert headers == {2: {"traceparent": f"00-{6:032x}-{span.context.span_id:016x}-01", **STATE}}


def test_a_sampled_publication_has_a_send_span_until_its_confirm(traces: Traces) -> None:
    group = traces.tracing.publishing([publication(parent(5)), publication(parent(6, sampled=False)), publication({})])
    assert len(traces.finished) == 0
    group.settled(confirmed=3, failures={}, seconds=0.1)
    (span,) = traces.finished
    assert span.name == "send order_events"
    assert span.kind is SpanKind.CLIENT
    assert (span.context.trace_id, span.parent and span.parent.span_id) == (5, 5)
    assert [link.span_id for link in span.links] == [5]
    assert span.attributes["messaging.destination.name"] == "order_events:order.created"
    assert span.attributes["messaging.operation.type"] == "send"
    assert span.attributes["orderflow.order_id"] == "order-1"


@pytest.mark.parametrize(("confirmed", "code"), [(0, StatusCode.ERROR), (2, StatusCode.UNSET)])
def test_failed_publications_are_counted_for_their_group(traces: Traces, confirmed: int, code: StatusCode) -> None:
    group = traces.tracing.publishing([publication(parent(5))])
    group.settled(confirmed=confirmed, failures={Failure.RETURNED: 1}, seconds=0.1)
    (span,) = traces.finished
    assert span.attributes["orderflow.publish.failures"] == 1
    assert span.status is code


def test_a_call_to_the_outside_carries_its_own_span(traces: Traces) -> None:
    call = traces.tracing.calling("look_up", parent(9))
    sent = call.headers()["traceparent"]
    call.finished("unclear")
    (span,) = traces.finished
    assert (span.name, span.kind) == ("look up", SpanKind.CLIENT)
    assert sent.split("-")[1:3] == [f"{9:032x}", f"{span.context.span_id:016x}"]
    assert span.attributes["orderflow.outcome"] == "unclear"
    assert span.status is StatusCode.ERROR


def test_a_call_of_an_unsampled_trace_forwards_it(traces: Traces) -> None:
    headers = parent(9, sampled=False)
    call = traces.tracing.calling("charge", headers)
    assert call.headers() == headers
    call.finished("captured")
    assert len(traces.finished) == 0


def test_without_spans_contexts_are_only_passed_on() -> None:
    tracing = Tracing()
    batch = tracing.batch_received(Q, [sampled_delivery(1)])
    assert batch.headers(0) == parent(1)
    batch.handled(BatchResult(done=1))
    assert type(tracing.publishing([publication(parent(1))])) is PublishObserver
    assert tracing.calling("charge", parent(1)).headers() == parent(1)
    assert tracing.created([publication(parent(1))]) == {}
    assert tracing.mark("x", parent(1), {}) is None


def test_where_no_trace_may_begin_only_batches_with_a_sampled_message_have_a_span(
    make_traces: Callable[..., Traces],
) -> None:
    traces = make_traces(batches=False)
    traces.tracing.batch_received(Q, [deliver()]).handled(BatchResult(done=1))
    assert len(traces.finished) == 0
    traces.tracing.batch_received(Q, [sampled_delivery(1)]).handled(BatchResult(done=1))
    assert len(traces.finished) == 2


def test_one_order_is_one_connected_trace_through_a_retry(traces: Traces) -> None:
    """Request, outbox, send, process that fails, retry, process again, send of what follows."""
    request = traces.spans.start("POST /v1/orders", SpanKind.SERVER, parent=None, attributes={})
    traces.spans.end([request])
    headers: dict[str, object] = dict(request.context.headers())
    for retried in ([(0, "handler_error", 1.0)], []):
        group = traces.tracing.publishing([publication({name: str(text) for name, text in headers.items()})])
        group.settled(confirmed=1, failures={}, seconds=0.01)
        batch = traces.tracing.batch_received(Q, [deliver(headers=headers)])
        caused = batch.headers(0)
        batch.handled(BatchResult(retried=retried))
        headers = {**headers, "x-retry-count": 1}
    group = traces.tracing.publishing([publication(dict(caused))])
    group.settled(confirmed=1, failures={}, seconds=0.01)
    trace = [span for span in traces.finished if f"{span.context.trace_id:032x}" == request.context.trace_id]
    known = {span.context.span_id for span in trace}
    assert len(trace) == 6
    assert [span.name for span in trace if span.parent is None] == ["POST /v1/orders"]
    assert all(span.parent.span_id in known for span in trace if span.parent)
