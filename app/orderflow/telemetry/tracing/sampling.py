# SPDX-License-Identifier: Apache-2.0
"""Decides where a request comes in whether the trace of its order is recorded, with the sampler of the SDK."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import SpanKind, set_span_in_context

from orderflow.telemetry.tracing.propagation import SAMPLED, TraceContext
from orderflow.telemetry.tracing.spans import Attributes, api_span, new_span_id, new_trace_id


class RequestSampling:
    """Names the spans of requests. Every span of a trace follows this decision."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.samples = sampler.should_sample(None, 0, "request").decision is not Decision.DROP
        """False when the sampler drops everything: then no trace begins here, not even for a batch."""

    def context(self, parent: TraceContext | None, name: str, attributes: Attributes) -> TraceContext:
        """The context of a request's span, in the trace of the client that sent a context."""
        trace_id = parent.trace_id if parent else new_trace_id()
        above = set_span_in_context(api_span(parent), Context()) if parent else Context()
        result = self._sampler.should_sample(above, int(trace_id, 16), name, SpanKind.SERVER, attributes)
        flags = parent.flags & ~SAMPLED if parent else 0
        if result.decision is Decision.RECORD_AND_SAMPLE:
            flags |= SAMPLED
        state = result.trace_state.to_header() if result.trace_state else ""
        return TraceContext(trace_id, new_span_id(), flags, state)
