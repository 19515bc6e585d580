# SPDX-License-Identifier: Apache-2.0
"""A histogram that records the values of a whole batch under one lock; the client library locks for each value."""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock

from prometheus_client.core import Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector

from orderflow.telemetry.metrics.types import Histogram

Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class HistogramSeries:
    """The values for one set of labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float, count: int = 1) -> None:
        """Add a value, ``count`` times."""
        position = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[position] += count
            self._sum += value * count

    def observe_all(self, values: Iterable[float]) -> None:
        """Add many values."""
        bounds, total = self._bounds, 0.0
        positions = []
        for value in values:
            positions.append(bisect_left(bounds, value))
            total += value
        counts = self._counts
        with self._lock:
            for position in positions:
                counts[position] += 1
            self._sum += total

    def set_exemplar(self, value: float, labels: Mapping[str, str]) -> None:
        """Set an observed value as the exemplar of its bucket. The labels may have 128 characters in total."""
        exemplar = Exemplar(dict(labels), value, time.time())
        with self._lock:
            self._exemplars[bisect_left(self._bounds, value)] = exemplar

    def exemplar_age(self, value: float, now: float) -> float:
        """Seconds since the exemplar of the value's bucket was set; infinite without an exemplar."""
        exemplar = self._exemplars[bisect_left(self._bounds, value)]
        return now - float(exemplar.timestamp) if exemplar and exemplar.timestamp else float("inf")

    def state(self) -> tuple[list[Bucket], float]:
        """The cumulative buckets and the sum, as a consistent snapshot."""
        with self._lock:
            counts, exemplars, total = list(self._counts), list(self._exemplars), self._sum
        buckets: list[Bucket] = []
        running = 0
        for bound, count, exemplar in zip((*self._bounds, float("inf")), counts, exemplars, strict=True):
            running += count
            name = "+Inf" if bound == float("inf") else repr(bound)
            buckets.append((name, float(running), exemplar) if exemplar else (name, float(running)))
        return buckets, total


class BatchHistogram(Collector):
    """A histogram metric of the catalogue."""

    def __init__(self, metric: Histogram) -> None:
        self._metric = metric
        self._bounds = tuple(float(bound) for bound in metric.buckets)
        self._series: dict[tuple[str, ...], HistogramSeries] = {}

    def labels(self, *values: str) -> HistogramSeries:
        """The series for these values, created when it is missing. Concurrent callers must not use the same values."""
        return self._series.setdefault(values, HistogramSeries(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series, as the registry expects them."""
        family = self._family()
        for values, series in list(self._series.items()):
            buckets, total = series.state()
            family.add_metric(values, buckets, total)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without series, so that the registry can refuse a name used twice."""
        yield self._family()

    def _family(self) -> HistogramMetricFamily:
        labels = [label.name for label in self._metric.labels]
        return HistogramMetricFamily(self._metric.name, self._metric.meaning, labels=labels)
