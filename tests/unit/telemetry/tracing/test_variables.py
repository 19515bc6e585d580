# SPDX-License-Identifier: Apache-2.0
import logging

import pytest

from orderflow.telemetry.tracing.variables import number

DELAY = "OTEL_BSP_SCHEDULE_DELAY"


@pytest.mark.parametrize(("given", "used"), [({}, 1000), ({DELAY: ""}, 1000), ({DELAY: " 250 "}, 250)])
def test_a_number_is_what_is_given_or_the_default(
    given: dict[str, str], used: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert number(given, DELAY) == used
    assert caplog.records == []


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "²"])
def test_what_makes_no_sense_is_told_and_the_default_is_used(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert number({DELAY: text}, DELAY) == 1000
    assert [record.message for record in caplog.records] == ["variable.ignored"]
