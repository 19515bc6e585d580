# SPDX-License-Identifier: Apache-2.0
import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, set_span_in_context

from orderflow.telemetry.logging import configure
from orderflow.telemetry.tracing.propagation import parsed
from orderflow.telemetry.tracing.spans import api_span
from tests.rigs.traces import Traces


class Output(io.StringIO):
    """What was logged, line by line."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def output() -> Iterator[Output]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = Output()
    configure("orders", level="info", stream=stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


log = logging.getLogger("orderflow.test")


def test_a_line_is_an_event_with_its_fields(output: Output) -> None:
    log.info("relay.published", extra={"rows": 3, "queue": "q", "id": UUID(int=1), "odd": {1, 2}.__class__})
    (line,) = output.lines
    time = datetime.fromisoformat(line.pop("time"))
    assert time.utcoffset() is not None
    assert line == {
        "level": "info",
        "event": "relay.published",
        "process": "orders",
        "logger": "orderflow.test",
        "rows": 3,
        "queue": "q",
        "id": "00000000-0000-0000-0000-000000000001",
        "odd": "<class 'set'>",
    }


def test_a_line_within_a_span_bears_its_ids(output: Output, traces: Traces) -> None:
    opened = traces.spans.start("x", SpanKind.INTERNAL, parent=None, attributes={})
    token = attach(set_span_in_context(api_span(opened.context)))
    log.info("inside")
    detach(token)
    log.info("outside")
    inside, outside = output.lines
    assert inside["trace_id"] == opened.context.trace_id
    assert inside["span_id"] == opened.context.span_id
    assert "trace_id" not in outside


def test_a_field_cannot_take_the_place_of_what_every_line_has(output: Output) -> None:
    log.info("real", extra={"event": "forged", "level": "forged", "time": "forged"})
    (line,) = output.lines
    assert (line["event"], line["level"]) == ("real", "info")
    assert line["time"] != "forged"


def test_an_exception_becomes_fields_without_the_row_in_its_message(output: Output) -> None:
    try:
        try:
            raise ValueError("null value in column\nDETAIL: Failing row contains (customer@example.org)")
        except ValueError as cause:
            raise RuntimeError("cannot store") from cause
    except RuntimeError:
        log.exception("failed")
    (line,) = output.lines
    assert (line["error_type"], line["error"]) == ("RuntimeError", "cannot store")
    assert line["causes"] == ["ValueError: null value in column"]
    assert all("test_logging.py" in frame for frame in line["stack"]) and len(line["stack"]) == 2
    assert "customer@example.org" not in output.getvalue()


def test_a_newline_cannot_forge_a_line(output: Output) -> None:
    log.info("a\nb", extra={"text": 'x\n{"event": "forged"}'})
    assert len(output.lines) == 1


def test_a_line_is_never_long_whatever_is_logged(output: Output) -> None:
    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError:
        log.exception("process.failed", extra={"text": "x" * 2_000_000})
    (line,) = output.lines
    assert len(output.getvalue()) < 5000
    assert line["text"] == "x" * 500
    assert line["stack"][-1].endswith("deeper")


def test_lines_below_the_level_and_info_lines_of_libraries_are_left_out(output: Output) -> None:
    log.debug("hidden")
    logging.getLogger("pika.connection").info("hidden")
    logging.getLogger("pika.connection").warning("shown")
    assert [line["event"] for line in output.lines] == ["shown"]


def test_warnings_are_lines_too(output: Output) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert output.lines[0]["logger"] == "py.warnings"


def test_a_foreign_trace_state_is_not_written_to_the_log(output: Output) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    context = parsed({"traceparent": parent, "tracestate": "a=jane.doe@example.org,a=4111111111111111"})
    assert context is not None and api_span(context).get_span_context().is_valid
    assert output.lines == []
