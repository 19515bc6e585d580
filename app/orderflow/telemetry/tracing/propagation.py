# SPDX-License-Identifier: Apache-2.0
"""Reads the W3C trace context of a message or request without the propagator, which costs more than the message.

https://www.w3.org/TR/trace-context/
"""

import re
from collections.abc import Mapping

import msgspec

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
SAMPLED = 0x01
"""The flag of a context whose spans are recorded."""
_LENGTH = 55
_MAX_STATE = 512
_ODD = frozenset("13579bdf")
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}"
_STATE = re.compile(rf"{_MEMBER}(?:,{_MEMBER})*")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Names a span: the ids in hexadecimal digits, as in the headers, with the flags and the state of its trace."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""
    is_remote: bool = False
    """True for a context that was read from headers: its span may be one of another process."""

    @property
    def sampled(self) -> bool:
        """Whether the spans of the trace are recorded."""
        return bool(self.flags & SAMPLED)

    def headers(self) -> dict[str, str]:
        """The trace headers for what the span causes."""
        parent = f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"
        return {TRACEPARENT: parent, TRACESTATE: self.state} if self.state else {TRACEPARENT: parent}


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
    state = _state(headers)
    return {TRACEPARENT: parent, TRACESTATE: state} if state else {TRACEPARENT: parent}


def parsed(headers: Mapping[str, object]) -> TraceContext | None:
    """The context in the headers, or None when there is none or it is malformed."""
    text = headers.get(TRACEPARENT)
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, int(flags, 16), _state(headers), is_remote=True)


def sampled(headers: Mapping[str, object]) -> TraceContext | None:
    """The context in the headers when its trace is sampled, else None."""
    return parsed(headers) if is_sampled(headers) else None


def _state(headers: Mapping[str, object]) -> str:
    """The tracestate, or an empty text when it is too long or malformed."""
    state = headers.get(TRACESTATE)
    return state if isinstance(state, str) and len(state) <= _MAX_STATE and _STATE.fullmatch(state) else ""
