# SPDX-License-Identifier: Apache-2.0
"""The types of the catalogue: name, kind, unit, labels and meaning of a metric. Needs no metrics library."""

from dataclasses import dataclass
from typing import Literal

from orderflow.instrumentation import Area

Unit = Literal[
    "seconds",
    "bytes",
    "total",
    "info",
    "timestamp_seconds",
    "messages",
    "units",
    "orders",
    "skus",
    "queues",
    "state",
    "connections",
]
Kind = Literal["counter", "gauge", "histogram"]

OTHER = "other"
"""The label value that replaces values beyond the bound of a label."""

PREFIX = "orderflow_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label. ``values`` are known in advance. At most ``max_values`` are used; OTHER replaces any other.

    With ``closed``, only the known values are used. A metric whose labels all have known values (``values``, or those
    given to ``MetricRegistry``) is exported at 0 from the start, for all these values.
    """

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    max_values: int = 32
    closed: bool = False

    def __post_init__(self) -> None:
        if len(self.values) > self.max_values:
            raise ValueError(f"label {self.name} has more than {self.max_values} values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of the catalogue. Processes with its ``area`` export it."""

    name: str
    area: Area
    meaning: str
    unit: Unit
    labels: tuple[Label, ...]
    kind: Kind

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its samples are stored."""
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter(Metric):
    """A number that only grows; its name ends in ``_total``."""

    kind: Kind = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge(Metric):
    """A number that goes up and down."""

    kind: Kind = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(Metric):
    """A distribution; ``buckets`` are upper bounds in its unit, +Inf is added."""

    kind: Kind = "histogram"
    buckets: tuple[float, ...]
    exemplars: bool = False

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its samples are stored."""
        return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")


@dataclass(frozen=True, slots=True)
class MetricArea:
    """One kind of work of a process, with its own metrics."""

    name: Area
    meaning: str

    def counter(self, name: str, meaning: str, *labels: Label) -> Counter:
        """A counter of this area."""
        return Counter(name=name, area=self.name, meaning=meaning, unit="total", labels=labels)

    def gauge(self, name: str, meaning: str, *labels: Label, unit: Unit) -> Gauge:
        """A gauge of this area."""
        return Gauge(name=name, area=self.name, meaning=meaning, unit=unit, labels=labels)

    def histogram(
        self, name: str, meaning: str, *labels: Label, unit: Unit, buckets: tuple[float, ...], exemplars: bool = False
    ) -> Histogram:
        """A histogram of this area."""
        return Histogram(
            name=name,
            area=self.name,
            meaning=meaning,
            unit=unit,
            labels=labels,
            buckets=buckets,
            exemplars=exemplars,
        )
