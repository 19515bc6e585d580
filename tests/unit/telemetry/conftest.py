# SPDX-License-Identifier: Apache-2.0
"""A registry and a span store per test."""

from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from orderflow.telemetry import server
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.sdk import Pipeline
from tests.rigs.traces import Traces


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def instruments(registry: CollectorRegistry) -> MetricRegistry:
    return MetricRegistry(registry)


@pytest.fixture
def value(registry: CollectorRegistry) -> Callable[..., float | None]:
    """The value of a sample, by its name and labels."""

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    return read


@pytest.fixture
def make_traces() -> Iterator[Callable[..., Traces]]:
    """Creates tracing whose edge sampler follows the given environment."""
    made: list[Pipeline] = []

    def make(*, batches: bool = True, **environ: str) -> Traces:
        traces = Traces.in_memory(batches=batches, environ=environ)
        made.append(traces.pipeline)
        return traces

    yield make
    for pipeline in made:
        pipeline.shutdown(timeout_seconds=1)


@pytest.fixture
def traces(make_traces: Callable[..., Traces]) -> Traces:
    return make_traces()


@pytest.fixture(autouse=True)
def stopping_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers check more often whether they were stopped."""
    monkeypatch.setattr(server, "_STOP_SECONDS", 0.002)
