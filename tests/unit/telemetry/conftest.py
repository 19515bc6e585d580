# SPDX-License-Identifier: Apache-2.0
"""A registry and a span store per test."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from orderflow.telemetry import server
from orderflow.telemetry.metrics.registry import MetricRegistry
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
def make_traces() -> Callable[..., Traces]:
    """Creates tracing that samples requests as the given environment says."""

    def make(*, batches: bool = True, **environ: str) -> Traces:
        return Traces.in_memory(batches=batches, environ=environ)

    return make


@pytest.fixture
def traces(make_traces: Callable[..., Traces]) -> Traces:
    return make_traces()


@pytest.fixture(autouse=True)
def stopping_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers check more often whether they were stopped."""
    monkeypatch.setattr(server, "_STOP_SECONDS", 0.002)
