# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.telemetry.tracing.propagation import forwarded, is_sampled, parsed

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True), ("fe", False)]
)
def test_only_the_lowest_bit_of_the_flags_means_sampled(flags: str, sampled: bool) -> None:
    assert is_sampled({"traceparent": TRACE + flags}) is sampled


def test_a_context_survives_reading_and_writing() -> None:
    headers = {"traceparent": TRACE + "03", "tracestate": "vendor=1,other=2"}
    context = parsed(headers)
    assert context is not None and context.is_remote
    assert context.headers() == headers


@pytest.mark.parametrize(
    "text",
    [
        "",
        7,
        None,
        b"00",
        TRACE,
        TRACE + "0g",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        TRACE.upper() + "01",
    ],
)
def test_a_malformed_context_is_none(text: object) -> None:
    assert parsed({"traceparent": text}) is None


@given(
    st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), st.one_of(st.text(), st.integers(), st.binary()))
)
def test_whatever_the_headers_are_reading_them_never_raises(headers: dict[str, object]) -> None:
    is_sampled(headers)
    forwarded(headers)
    parsed(headers)


def test_headers_are_forwarded_as_they_are() -> None:
    headers = {"traceparent": TRACE + "00", "tracestate": "a=1", "x-occurred-at": "now"}
    assert forwarded(headers) == {"traceparent": TRACE + "00", "tracestate": "a=1"}
    assert forwarded({"tracestate": "a=1"}) == {}
    assert forwarded({"traceparent": "short"}) == {}


def test_a_tracestate_that_is_too_long_is_not_forwarded() -> None:
    long = "a=" + "1" * 600
    assert forwarded({"traceparent": TRACE + "00", "tracestate": long}) == {"traceparent": TRACE + "00"}
    context = parsed({"traceparent": TRACE + "01", "tracestate": long})
    assert context is not None and not context.state


@pytest.mark.parametrize("text", [TRACE + "0\n", TRACE[:-3] + "\r\nx01", "x" * 55, TRACE + "01\n"])
def test_a_traceparent_that_could_not_be_sent_on_is_not_forwarded(text: str) -> None:
    assert forwarded({"traceparent": text}) == {}


@pytest.mark.parametrize("state", ["a=1\r\nx: y", "a=\x00", "a=é", "a=1\n", "a", "A=1", "a=1,", ",a=1", "a=1;b=2,c"])
def test_a_tracestate_that_could_not_be_sent_on_is_not_forwarded(state: str) -> None:
    assert forwarded({"traceparent": TRACE + "01", "tracestate": state}) == {"traceparent": TRACE + "01"}
