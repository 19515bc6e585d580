# SPDX-License-Identifier: Apache-2.0
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import TraceState

from orderflow.telemetry.tracing.propagation import TraceContext
from orderflow.telemetry.tracing.sampling import RequestSampling

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("sampler", "ratio", "samples"),
    [
        ("always_on", "", True),
        ("always_off", "", False),
        ("traceidratio", "0.01", True),
        ("traceidratio", "0", False),
        ("parentbased_always_on", "", True),
        ("parentbased_always_off", "", False),
        ("parentbased_traceidratio", "0.01", True),
        ("parentbased_traceidratio", "0", False),
    ],
)
def test_the_sampler_is_the_one_of_the_standard_variables(
    monkeypatch: pytest.MonkeyPatch, sampler: str, ratio: str, samples: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    assert RequestSampling(TracerProvider(shutdown_on_exit=False).sampler).samples is samples


class ScriptedSampler(Sampler):
    """A sampler of the user's own, which records and returns what it is told."""

    def __init__(self, decision: Decision, state: str = "") -> None:
        self._result = SamplingResult(decision, None, TraceState.from_header([state]) if state else None)

    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        return self._result

    def get_description(self) -> str:
        return "scripted"


@pytest.mark.parametrize(
    ("decision", "sampled"), [(Decision.DROP, False), (Decision.RECORD_ONLY, False), (Decision.RECORD_AND_SAMPLE, True)]
)
def test_the_span_of_a_request_follows_the_decision(decision: Decision, sampled: bool) -> None:
    context = RequestSampling(ScriptedSampler(decision, "a=1")).context(None, "POST", {})
    assert (context.sampled, context.state, context.is_remote) == (sampled, "a=1", False)
    assert int(context.trace_id, 16) and int(context.span_id, 16)


@pytest.mark.parametrize(("decision", "flags"), [(Decision.DROP, 2), (Decision.RECORD_AND_SAMPLE, 3)])
def test_in_a_clients_trace_only_the_sampled_flag_is_decided(decision: Decision, flags: int) -> None:
    parent = TraceContext(TRACE, SPAN, 3, is_remote=True)
    context = RequestSampling(ScriptedSampler(decision)).context(parent, "POST", {})
    assert (context.trace_id, context.flags) == (TRACE, flags)
    assert context.span_id != SPAN
