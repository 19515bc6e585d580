# SPDX-License-Identifier: Apache-2.0
import logging

import pytest

from orderflow.telemetry.tracing.sampling import edge_sampler, is_off


@pytest.mark.parametrize(
    ("name", "argument", "description"),
    [
        ("", "", "ParentBased{root:AlwaysOnSampler"),
        ("always_on", "", "AlwaysOnSampler"),
        ("always_off", "", "AlwaysOffSampler"),
        ("parentbased_always_off", "", "ParentBased{root:AlwaysOffSampler"),
        ("traceidratio", "0.25", "TraceIdRatioBased{0.25}"),
        ("parentbased_traceidratio", "0.01", "ParentBased{root:TraceIdRatioBased{0.01}"),
        ("parentbased_traceidratio", "", "ParentBased{root:TraceIdRatioBased{1.0}"),
    ],
)
def test_the_standard_names_are_known(name: str, argument: str, description: str) -> None:
    sampler = edge_sampler({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert sampler.get_description().startswith(description)


@pytest.mark.parametrize(
    ("name", "argument", "event"),
    [("jaeger_remote", "", "sampler.unknown"), ("traceidratio", "a lot", "sampler.ratio_invalid")]
    + [("parentbased_traceidratio", text, "sampler.ratio_invalid") for text in ("1.5", "-1", "nan")],
)
def test_what_makes_no_sense_is_logged_and_samples_everything(
    name: str, argument: str, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        sampler = edge_sampler({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert caplog.messages == [event]
    assert "AlwaysOn" in sampler.get_description() or "1.0" in sampler.get_description()


def test_off_means_that_no_trace_begins_here() -> None:
    assert is_off({"OTEL_TRACES_SAMPLER": "parentbased_always_off"})
    assert not is_off({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"})
    assert not is_off({})
