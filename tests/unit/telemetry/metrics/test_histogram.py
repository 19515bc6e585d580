# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.metrics_core import Metric as Family

from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.histogram import BatchHistogram

METRIC = catalogue.CONFIRM_SECONDS


def samples(families: Iterator[Family]) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(METRIC.buckets))))
def test_it_counts_as_the_client_librarys_histogram_does(values: list[float]) -> None:
    ours, theirs = BatchHistogram(METRIC), TheirHistogram(METRIC.name, "x", buckets=METRIC.buckets, registry=None)
    ours.labels().observe_all(values[::2])
    for number in values[1::2]:
        ours.labels().observe(number)
    for number in values[::2] + values[1::2]:
        theirs.observe(number)
    expected = samples(iter(theirs.collect()))
    found = samples(ours.collect())
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - expected[key]) < 1e-6 for key in expected)


def test_a_value_can_be_counted_many_times_in_one_call() -> None:
    distribution = BatchHistogram(METRIC)
    distribution.labels().observe(0.2, 250)
    found = samples(distribution.collect())
    assert found[(f"{METRIC.name}_count", "")] == 250
    assert found[(f"{METRIC.name}_sum", "")] == 50
    assert found[(f"{METRIC.name}_bucket", "0.1")] == 0


def test_an_example_belongs_to_the_bucket_of_its_value() -> None:
    distribution = BatchHistogram(METRIC)
    series = distribution.labels()
    series.observe(0.2)
    assert series.exemplar_age(0.2, 1e12) == float("inf")
    series.set_exemplar(0.2, {"trace_id": "abc"})
    assert 0 < series.exemplar_age(0.2, 1e12) < 1e12
    assert series.exemplar_age(0.01, 1e12) == float("inf")
    examples = {
        sample.labels["le"]: sample.exemplar.labels
        for family in distribution.collect()
        for sample in family.samples
        if sample.exemplar
    }
    assert examples == {"0.25": {"trace_id": "abc"}}


def test_a_name_cannot_be_registered_twice() -> None:
    registry = CollectorRegistry()
    registry.register(BatchHistogram(METRIC))
    try:
        registry.register(BatchHistogram(METRIC))
    except ValueError:
        return
    raise AssertionError("it was registered twice")
