# SPDX-License-Identifier: Apache-2.0
"""Reads the W3C trace context of a message or request without the propagator, which costs more than the message.

https://www.w3.org/TR/trace-context/
"""

import re
from collections.abc import Mapping

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
_LENGTH = 55
_MAX_STATE = 512
_ODD = frozenset("13579bdf")
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def is_sampled(headers: Mapping[str, object]) -> bool:
    """True when the sampled flag of the context is set. Nothing else is read."""
    text = headers.get(TRACEPARENT)
    return isinstance(text, str) and len(text) == _LENGTH and text[-1] in _ODD


def forwarded(headers: Mapping[str, object]) -> dict[str, str]:
    """The trace headers, unchanged; empty without a well-formed traceparent.

    They are sent as HTTP headers and stored as JSON in the database, which refuse control characters.
    """
    parent = headers.get(TRACEPARENT)
    if not isinstance(parent, str) or not _FORM.fullmatch(parent):
        return {}
    state = headers.get(TRACESTATE)
    if isinstance(state, str) and 0 < len(state) <= _MAX_STATE and state.isascii() and state.isprintable():
        return {TRACEPARENT: parent, TRACESTATE: state}
    return {TRACEPARENT: parent}


def parsed(headers: Mapping[str, object]) -> SpanContext | None:
    """The context in the headers, or None when there is none or it is malformed."""
    text = headers.get(TRACEPARENT)
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    state = headers.get(TRACESTATE)
    context = SpanContext(
        trace_id=int(match[1], 16),
        span_id=int(match[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[3], 16)),
        trace_state=TraceState.from_header([state]) if isinstance(state, str) and len(state) <= _MAX_STATE else None,
    )
    return context if context.is_valid else None


def headers_of(context: SpanContext) -> dict[str, str]:
    """The trace headers for what a span causes."""
    headers = {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        headers[TRACESTATE] = context.trace_state.to_header()
    return headers
