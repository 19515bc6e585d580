# SPDX-License-Identifier: Apache-2.0
"""Creates the metrics of the catalogue in a Prometheus registry, and bounds the number of their label values."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from threading import Lock

import prometheus_client
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from orderflow.telemetry.metrics.catalogue import CATALOGUE
from orderflow.telemetry.metrics.histogram import BatchHistogram, HistogramSeries
from orderflow.telemetry.metrics.types import OTHER, Counter, Gauge, Histogram, Label, Metric

_Collector = prometheus_client.Counter | prometheus_client.Gauge | BatchHistogram
"""Has a child for each combination of label values."""
_Child = prometheus_client.Counter | prometheus_client.Gauge | HistogramSeries


class ScrapedGauge(Collector):
    """A gauge with at most one label. Its series are those that ``read`` returns at each scrape, by label value.

    Without a label the key is not used; nothing is exported when ``read`` returns nothing.
    """

    def __init__(self, metric: Gauge) -> None:
        self.read: Callable[[], Mapping[str, float]] = dict
        self._metric = metric

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The current readings."""
        labels = [label.name for label in self._metric.labels]
        family = GaugeMetricFamily(self._metric.name, self._metric.meaning, labels=labels)
        for value, number in self.read().items():
            family.add_metric([value] if labels else [], number)
        yield family


class MetricRegistry:
    """The metrics of one process in one registry. Callers keep a child, because a look-up costs more than an increment.

    ``given`` maps labels to their values that are known at the start, for example the queues.
    """

    def __init__(self, registry: CollectorRegistry, *, given: Mapping[str, Sequence[str]] | None = None) -> None:
        # The creation time would double the series, and no query uses it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._given = given or {}
        self._collectors: dict[str, _Collector] = {}
        self._children: dict[tuple[str, ...], _Child] = {}
        self._used: dict[tuple[str, str], set[str]] = {}
        self._scraped: dict[str, ScrapedGauge] = {}
        self._lock = Lock()

    def prepare(self, areas: Collection[str]) -> None:
        """Export the metrics of these areas as 0, for all label values that are known at the start."""
        for metric in CATALOGUE:
            if metric.area in areas and metric.name not in self._scraped:
                self._collector(metric)
                for values in product(*(self._known(label) for label in metric.labels)):
                    self._child(metric, values)

    def counter(self, metric: Counter, *values: str) -> prometheus_client.Counter:
        """The counter for these values of the metric's labels, in their order."""
        child = self._child(metric, values)
        assert isinstance(child, prometheus_client.Counter)
        return child

    def gauge(self, metric: Gauge, *values: str) -> prometheus_client.Gauge:
        """The gauge for these values of the metric's labels, in their order."""
        child = self._child(metric, values)
        assert isinstance(child, prometheus_client.Gauge)
        return child

    def histogram(self, metric: Histogram, *values: str) -> HistogramSeries:
        """The histogram for these values of the metric's labels, in their order."""
        child = self._child(metric, values)
        assert isinstance(child, HistogramSeries)
        return child

    def remove(self, metric: Gauge) -> None:
        """Export the gauge no longer, until it is set again: its last value is out of date. Keep no child of it."""
        with self._lock:
            collector = self._collectors.pop(metric.name, None)
            if collector is not None:
                self.registry.unregister(collector)
                self._children = {key: child for key, child in self._children.items() if key[0] != metric.name}

    def scraped(self, metric: Gauge) -> ScrapedGauge:
        """The gauge as one that is read at each scrape; the caller sets its ``read``."""
        if metric.name not in self._scraped:
            prepared = self._collectors.pop(metric.name, None)
            if prepared is not None:
                self.registry.unregister(prepared)
            self._scraped[metric.name] = ScrapedGauge(metric)
            self.registry.register(self._scraped[metric.name])
        return self._scraped[metric.name]

    def _known(self, label: Label) -> Sequence[str]:
        return self._given.get(label.name) or label.values

    def _child(self, metric: Metric, values: tuple[str, ...]) -> _Child:
        found = self._children.get((metric.name, *values))
        if found is not None:
            return found
        if len(values) != len(metric.labels):
            raise ValueError(f"{metric.name} has {len(metric.labels)} labels, not {len(values)}")
        collector = self._collector(metric)
        with self._lock:
            bounded = [self._bounded(metric, label, value) for label, value in zip(metric.labels, values, strict=True)]
            child: _Child = collector.labels(*bounded) if bounded else _only(collector)
            if list(values) == bounded:
                self._children[(metric.name, *values)] = child
        return child

    def _bounded(self, metric: Metric, label: Label, value: str) -> str:
        used = self._used.setdefault((metric.name, label.name), set(self._known(label)))
        if value in used:
            return value
        if label.closed or len(used) >= label.max_values:
            return OTHER
        used.add(value)
        return value

    def _collector(self, metric: Metric) -> _Collector:
        with self._lock:
            found = self._collectors.get(metric.name)
            if found is None:
                found = self._collectors[metric.name] = self._create(metric)
        return found

    def _create(self, metric: Metric) -> _Collector:
        labels = [label.name for label in metric.labels]
        if isinstance(metric, Histogram):
            distribution = BatchHistogram(metric)
            self.registry.register(distribution)
            return distribution
        kind = prometheus_client.Counter if isinstance(metric, Counter) else prometheus_client.Gauge
        return kind(metric.name, metric.meaning, labels, registry=self.registry)


def _only(collector: _Collector) -> _Child:
    """The one child of a metric without labels."""
    return collector.labels() if isinstance(collector, BatchHistogram) else collector
