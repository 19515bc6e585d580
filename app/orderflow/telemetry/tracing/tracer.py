# SPDX-License-Identifier: Apache-2.0
"""Traces one order through the broker. Only sampled traces have spans; the HTTP request decides once.

The instrumentation of the broker library is not used here: per message it costs more than everything else.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from orderflow.instrumentation import Instrumentation, RequestObserver
from orderflow.messaging.broker import Delivery, Failure, Publication
from orderflow.messaging.instrumentation import BatchObserver, CallObserver, PublishObserver
from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.batch_spans import BatchTrace, Forwarding
from orderflow.telemetry.tracing.http_spans import ForwardingRequest, RequestTrace
from orderflow.telemetry.tracing.propagation import TraceContext, forwarded, is_sampled, parsed, sampled
from orderflow.telemetry.tracing.semconv import AttributeValue
from orderflow.telemetry.tracing.spans import Attributes, Link, Span, Spans

if TYPE_CHECKING:
    from orderflow.telemetry.tracing.sampling import RequestSampling

_FAILED_CALLS = frozenset({"failed", "unclear"})


class Tracing(Instrumentation):
    """Traces requests, batches, publications and calls. Without ``spans`` it only passes trace headers on.

    ``sampling`` decides which HTTP requests are recorded. ``server`` are the attributes of the broker. With ``batches``
    every batch gets a span, else only a batch with a sampled message.
    """

    def __init__(
        self,
        spans: Spans | None = None,
        *,
        sampling: "RequestSampling | None" = None,
        server: Attributes | None = None,
        batches: bool = True,
    ) -> None:
        self._spans = spans
        self._sampling = sampling
        self._server = server or {}
        self._batches = batches

    def http_request_started(self, *, method: str, path: str, scheme: str, trace: Mapping[str, str]) -> RequestObserver:
        """Begin a server span; it continues the client's trace."""
        if self._sampling is None or self._spans is None:
            return ForwardingRequest(trace)
        return RequestTrace(self._spans, self._sampling, method=method, path=path, scheme=scheme, parent=parsed(trace))

    def batch_received(self, queue: str, deliveries: Sequence[Delivery]) -> BatchObserver:
        """Begin the spans of a batch."""
        if self._spans is None or not (self._batches or _any_sampled(deliveries)):
            return Forwarding(deliveries)
        return BatchTrace(self._spans, queue, deliveries, self._server)

    def created(self, publications: Sequence[Publication]) -> Mapping[int, Mapping[str, str]]:
        """Record a short PRODUCER span for each publication that is sampled; its consumers' spans descend from it."""
        if self._spans is None:
            return {}
        made: dict[int, Span] = {}
        for position, publication in enumerate(publications):
            if cause := sampled(publication.properties.headers):
                attributes = self._sent_attributes(semconv.CREATE, publication)
                name = f"create {publication.exchange}"
                made[position] = self._spans.start(name, SpanKind.PRODUCER, parent=cause, attributes=attributes)
        if made:
            self._spans.end(list(made.values()))
        return {position: span.context.headers() for position, span in made.items()}

    def publishing(self, publications: Sequence[Publication]) -> PublishObserver:
        """Begin a send span for each publication that is sampled."""
        if self._spans is None:
            return PublishObserver()
        opened = [
            self._start_send_span(self._spans, publication, created)
            for publication in publications
            if (created := sampled(publication.properties.headers))
        ]
        return _SendSpans(self._spans, opened) if opened else PublishObserver()

    def calling(self, operation: str, trace: Mapping[str, str]) -> CallObserver:
        """Begin the span of a call to an external system when its trace is sampled."""
        parent = sampled(trace)
        if self._spans is None or parent is None:
            return _ForwardingCall(forwarded(trace))
        span = self._spans.start(
            operation.replace("_", " "), SpanKind.CLIENT, parent=parent, attributes={semconv.OPERATION: operation}
        )
        self._spans.adopt(span)
        return _CallTrace(self._spans, span)

    def annotate(self, trace: Mapping[str, str], attributes: Attributes) -> None:
        """Add attributes to the span whose headers these are, if it is still open in this process."""
        context = sampled(trace)
        span = self._spans.find(context) if self._spans and context else None
        if span is not None:
            span.attributes |= attributes

    def mark(self, name: str, trace: Mapping[str, str], attributes: Attributes) -> TraceContext | None:
        """Add attributes to a sampled trace: to the open span whose headers these are, else to a new short span.

        Returns the context of that span, or None when the trace is not sampled.
        """
        parent = sampled(trace)
        if self._spans is None or parent is None:
            return None
        span = self._spans.find(parent)
        if span is not None:
            span.attributes |= attributes
        else:
            span = self._spans.start(name, SpanKind.INTERNAL, parent=parent, attributes=dict(attributes))
            self._spans.end([span])
        return span.context

    def _start_send_span(self, spans: Spans, publication: Publication, created: TraceContext) -> Span:
        # CLIENT and a link, because the message was created, with its context, long before it is sent.
        return spans.start(
            f"send {publication.exchange or publication.routing_key}",
            SpanKind.CLIENT,
            parent=created,
            attributes=self._sent_attributes(semconv.SEND, publication),
            links=[Link(created)],
        )

    def _sent_attributes(self, operation: Attributes, publication: Publication) -> dict[str, AttributeValue]:
        return {
            **operation,
            **self._server,
            semconv.DESTINATION: semconv.destination(publication.exchange, publication.routing_key),
            semconv.ROUTING_KEY: publication.routing_key,
            **semconv.message(publication.properties, publication.body),
        }


class _SendSpans(PublishObserver):
    """The send spans of publications that were written together."""

    __slots__ = ("_opened", "_spans")

    def __init__(self, spans: Spans, opened: Sequence[Span]) -> None:
        self._spans = spans
        self._opened = opened

    def settled(self, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        """End all spans. Only the number of failures of a group is known here, not which publication failed."""
        _ = seconds
        if failures:
            reason = ",".join(sorted(failure.value for failure in failures))
            for span in self._opened:
                span.attributes[semconv.PUBLISH_FAILURES] = sum(failures.values())
                if not confirmed:
                    span.attributes[semconv.ERROR_TYPE] = span.error = reason
        self._spans.end(self._opened)


class _ForwardingCall(CallObserver):
    """Passes the trace headers on and records nothing."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def headers(self) -> Mapping[str, str]:
        return self._headers


class _CallTrace(CallObserver):
    """Records one call."""

    __slots__ = ("_span", "_spans")

    def __init__(self, spans: Spans, span: Span) -> None:
        self._spans = spans
        self._span = span

    def headers(self) -> Mapping[str, str]:
        return self._span.context.headers()

    def finished(self, outcome: str) -> None:
        span = self._span
        span.attributes[semconv.OUTCOME] = outcome
        if outcome in _FAILED_CALLS:
            span.attributes[semconv.ERROR_TYPE] = span.error = outcome
        self._spans.end([span])


def _any_sampled(deliveries: Sequence[Delivery]) -> bool:
    return any(is_sampled(delivery.properties.headers) for delivery in deliveries)
