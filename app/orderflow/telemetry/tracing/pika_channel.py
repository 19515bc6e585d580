# SPDX-License-Identifier: Apache-2.0
"""Traces the publishes of operator commands with opentelemetry-instrumentation-pika, one channel at a time.

Only for BlockingConnection at a low rate. This module avoids these problems of the library: its global ``instrument()``
patches two layers and creates two spans per publish, it never marks a channel as instrumented, it overwrites the
message's trace context, and it changes the properties that it is given.
"""

from collections.abc import Mapping

from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.pika import PikaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, set_span_in_context
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

from orderflow.telemetry.tracing import semconv
from orderflow.telemetry.tracing.propagation import TRACEPARENT, TRACESTATE, forwarded, parsed
from orderflow.telemetry.tracing.spans import api_span

_FLAG = "_is_instrumented_by_opentelemetry"


class TracedChannel:
    """Publishes through a blocking channel, with exactly one PRODUCER span per message, in the message's own trace.

    Without a provider (tracing is off) it publishes the message with the trace headers that it has.
    """

    def __init__(self, channel: BlockingChannel, provider: TracerProvider | None) -> None:
        self.channel = channel
        self._provider = provider
        if provider is not None and not getattr(channel, _FLAG, False):
            PikaInstrumentor.instrument_channel(channel, tracer_provider=provider, publish_hook=_describe)
            setattr(channel, _FLAG, True)

    def publish(
        self, *, exchange: str, routing_key: str, body: bytes, properties: BasicProperties, mandatory: bool = True
    ) -> None:
        """Publish a message; a trace context in its headers becomes the parent of the span.

        ``properties`` stay unchanged. Raises what the channel raises: UnroutableError, NackError, AMQPError.
        """
        headers: Mapping[str, object] = properties.headers or {}
        copied = BasicProperties(**{name: value for name, value in vars(properties).items() if value is not None})
        copied.headers = {name: value for name, value in headers.items() if name not in {TRACEPARENT, TRACESTATE}}
        if self._provider is None:
            copied.headers |= forwarded(headers)
            self.channel.basic_publish(exchange, routing_key, body, copied, mandatory)
            return
        stored = parsed(headers)
        token = attach(set_span_in_context(api_span(stored)) if stored else Context())
        try:
            self.channel.basic_publish(exchange, routing_key, body, copied, mandatory)
        finally:
            detach(token)


def _describe(span: Span, _body: bytes, properties: BasicProperties) -> None:
    """Add attributes of the current semantic conventions; the library sets those of 2022."""
    attributes = {
        **semconv.SEND,
        semconv.MESSAGE_ID: properties.message_id or "",
        semconv.ORDER_ID: properties.correlation_id or "",
        semconv.EVENT_TYPE: properties.type or "",
    }
    span.set_attributes(attributes)
