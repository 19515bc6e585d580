# SPDX-License-Identifier: Apache-2.0
"""The spans of one received batch: one for the batch, and one for each message whose trace is sampled."""

import time
from collections.abc import Mapping, Sequence

from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, set_span_in_context

from orderflow.messaging.broker import Delivery
from orderflow.messaging.instrumentation import BatchObserver, BatchResult
from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.propagation import forwarded, sampled
from orderflow.telemetry.tracing.semconv import AttributeValue
from orderflow.telemetry.tracing.spans import Attributes, Event, Link, Span, Spans, api_span

_RETRY_COUNT = "x-retry-count"


class Forwarding(BatchObserver):
    """Passes the trace headers on and records nothing."""

    __slots__ = ("_deliveries",)

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = deliveries

    def headers(self, position: int) -> Mapping[str, str]:
        """The trace headers of the message, unchanged."""
        return forwarded(self._deliveries[position].properties.headers)


class BatchTrace(BatchObserver):
    """Records one batch. Until it ends, the logs of this thread have the ids of its span."""

    __slots__ = ("_batch", "_deliveries", "_failures", "_messages", "_spans", "_token")

    def __init__(self, spans: Spans, queue: str, deliveries: Sequence[Delivery], server: Attributes) -> None:
        self._spans = spans
        self._deliveries = deliveries
        self._failures = 0
        started = time.time_ns()
        parents = {
            position: context
            for position, delivery in enumerate(deliveries)
            if (context := sampled(delivery.properties.headers))
        }
        name = f"process {queue}"
        self._batch = spans.start(
            name,
            SpanKind.CONSUMER,
            parent=None,
            attributes={
                **semconv.PROCESS,
                **server,
                semconv.DESTINATION: queue,
                semconv.BATCH_COUNT: len(deliveries),
            },
            links=[
                Link(context, {semconv.MESSAGE_ID: deliveries[position].properties.message_id or ""})
                for position, context in parents.items()
            ],
            start_ns=started,
        )
        links = [Link(self._batch.context)]
        self._messages: dict[int, Span] = {}
        for position, context in parents.items():
            attributes = message_attributes(deliveries[position], queue, server)
            span = spans.start(
                name, SpanKind.CONSUMER, parent=context, attributes=attributes, links=links, start_ns=started
            )
            spans.adopt(span)
            self._messages[position] = span
        self._token = attach(set_span_in_context(api_span(self._batch.context)))

    def headers(self, position: int) -> Mapping[str, str]:
        """The trace headers for what a message causes: those of its span, or its own when it is not sampled."""
        span = self._messages.get(position)
        return span.context.headers() if span else forwarded(self._deliveries[position].properties.headers)

    def handled(self, outcomes: BatchResult) -> None:
        """End all spans, each with the outcome of its message."""
        if outcomes.retried or outcomes.dead:
            self._set_outcomes(outcomes)
        if self._failures:
            self._batch.attributes[semconv.FAILED_ATTEMPTS] = self._failures
        detach(self._token)
        self._spans.end([*self._messages.values(), self._batch])

    def failed(self, error: BaseException) -> None:
        """Add a failed attempt to the span of the batch."""
        self._failures += 1
        event = Event("attempt failed", time.time_ns(), {semconv.ERROR_TYPE: type(error).__name__})
        self._batch.events.append(event)

    def _set_outcomes(self, outcomes: BatchResult) -> None:
        for position, reason, delay in outcomes.retried:
            if span := self._messages.get(position):
                _set_error(span, "retried", reason)
                span.attributes[semconv.RETRY_DELAY] = delay
        for position, reason in outcomes.dead:
            if span := self._messages.get(position):
                _set_error(span, "dead_lettered", reason)


def message_attributes(delivery: Delivery, queue: str, server: Attributes) -> dict[str, AttributeValue]:
    """The attributes of the span that processes a message."""
    attributes: dict[str, AttributeValue] = {
        **semconv.PROCESS,
        **server,
        semconv.DESTINATION: semconv.destination(delivery.exchange, delivery.routing_key, queue),
        semconv.ROUTING_KEY: delivery.routing_key,
        semconv.DELIVERY_TAG: delivery.tag,
        **semconv.message(delivery.properties, delivery.body),
    }
    retries = delivery.properties.headers.get(_RETRY_COUNT)
    if isinstance(retries, int) and retries:
        attributes[semconv.RETRY_COUNT] = retries
    if delivery.redelivered:
        attributes[semconv.REDELIVERED] = True
    return attributes


def _set_error(span: Span, outcome: str, reason: str) -> None:
    span.attributes |= {semconv.OUTCOME: outcome, semconv.REASON: reason, semconv.ERROR_TYPE: reason}
    span.error = reason
