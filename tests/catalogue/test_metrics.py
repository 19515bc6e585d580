# SPDX-License-Identifier: Apache-2.0
"""The catalogue of metrics is complete, well named, bounded and used; nothing else is exported."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from orderflow.reference.metrics import metrics
from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.metrics.types import PREFIX, Histogram, Metric

TELEMETRY = Path(__file__).parents[2] / "app/orderflow/telemetry"
SUFFIXES = {"seconds": "_seconds", "timestamp_seconds": "_timestamp_seconds", "total": "_total", "info": "_info"}
CONSTANTS = {value.name: name for name, value in vars(catalogue).items() if isinstance(value, Metric)}


@pytest.mark.parametrize("metric", catalogue.CATALOGUE, ids=lambda metric: metric.name)
def test_a_metric_is_well_named_bounded_and_used(metric: Metric) -> None:
    has_our_prefix_and_its_unit(metric)
    says_what_it_means(metric)
    has_bounded_series(metric)
    assert metric.area in {area.name for area in catalogue.AREAS}
    assert CONSTANTS[metric.name] in used()


def has_our_prefix_and_its_unit(metric: Metric) -> None:
    assert metric.name.startswith(PREFIX)
    assert metric.name == metric.name.lower()
    assert metric.name.endswith(SUFFIXES.get(metric.unit, ""))
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    for forbidden in ("_ms", "_milliseconds", "_minutes", "_kb", "_mb", "_count", "_sum", "_bucket"):
        assert not metric.name.removesuffix("_total").endswith(forbidden)


def says_what_it_means(metric: Metric) -> None:
    assert metric.meaning[0].isupper() and metric.meaning.endswith(".")
    assert all(label.meaning for label in metric.labels)


def has_bounded_series(metric: Metric) -> None:
    series = 1
    for label in metric.labels:
        series *= len(label.values) if label.closed else label.max_values
    assert series <= 32 * 32 * 8
    names = [label.name for label in metric.labels]
    assert len(names) == len(set(names))
    assert not {"sku", "user_id", "order_id", "message_id", "trace_id", "path"} & set(names)


@cache
def used() -> frozenset[str]:
    """Every constant of the catalogue that telemetry names."""
    return frozenset(
        node.attr
        for path in TELEMETRY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "catalogue"
    )


def test_names_are_unique_also_as_series() -> None:
    series = [name for metric in catalogue.CATALOGUE for name in {metric.name, *metric.series}]
    assert len(series) == len(set(series))


def test_buckets_grow() -> None:
    for metric in catalogue.CATALOGUE:
        if isinstance(metric, Histogram):
            assert list(metric.buckets) == sorted(set(metric.buckets))


def test_a_metric_is_found_by_the_name_of_its_samples() -> None:
    assert catalogue.metric("orderflow_order_completion_seconds_bucket") is catalogue.ORDER_SECONDS
    with pytest.raises(KeyError):
        catalogue.metric("orderflow_made_up_total")


def test_what_is_exported_is_what_the_catalogue_says() -> None:
    registry = CollectorRegistry()
    instruments = MetricRegistry(registry)
    instruments.scraped(catalogue.LOOP_IDLE)
    instruments.prepare({area.name for area in catalogue.AREAS})
    exported = {
        (family.name + "_total" if family.type == "counter" else family.name, family.type, family.documentation)
        for family in registry.collect()
    }
    assert exported == {(metric.name, metric.kind, metric.meaning) for metric in catalogue.CATALOGUE}


def test_nothing_else_makes_metrics() -> None:
    """Only one module may create metrics of the client library."""
    makers = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
    offenders = [
        path.name
        for path in TELEMETRY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "prometheus_client")
        and makers & {alias.name for alias in node.names}
    ]
    assert offenders == []
    direct = [path.name for path in TELEMETRY.rglob("*.py") if "prometheus_client.Counter" in path.read_text()]
    assert direct == ["registry.py"]


def test_the_catalogue_needs_no_metrics_library() -> None:
    program = (
        "import sys, orderflow.telemetry.metrics.catalogue; "
        "assert not {'prometheus_client', 'opentelemetry'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(TELEMETRY.parents[1])}, check=True, timeout=20
    )


def test_the_reference_contains_every_metric() -> None:
    text = metrics()
    assert all(f"`{metric.name}`" in text and metric.meaning in text for metric in catalogue.CATALOGUE)
