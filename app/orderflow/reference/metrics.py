# SPDX-License-Identifier: Apache-2.0
"""The reference of the metrics."""

from collections.abc import Iterator

from orderflow.telemetry.metrics.catalogue import CATALOGUE, ORDER_SECONDS
from orderflow.telemetry.metrics.types import OTHER, Histogram, Metric


def metrics() -> str:
    """The page with a section for each metric, in the order of the catalogue."""
    lines = [
        "# Metrics",
        "",
        "Every process exports the metrics of its areas at `/metrics` on its telemetry port, and the `process_*`",
        "metrics of the Prometheus client. With `Accept: application/openmetrics-text`,",
        f"`{ORDER_SECONDS.name}` has exemplars.",
        "",
    ]
    return "\n".join([*lines, *(line for metric in CATALOGUE for line in _section(metric))])


def _section(metric: Metric) -> Iterator[str]:
    yield f"### `{metric.name}`"
    yield ""
    unit = "" if metric.unit == "total" else f", unit: {metric.unit.replace('_', ' ')}"
    yield f"{metric.kind.capitalize()}{unit}, area: {metric.area}. {metric.meaning}"
    yield ""
    for label in metric.labels:
        values = ", ".join(f"`{value}`" for value in label.values)
        bound = "" if label.closed else f"; at most {label.max_values} values, then `{OTHER}`"
        yield f"- `{label.name}`: {label.meaning}{f' ({values})' if values else ''}{bound}"
    if isinstance(metric, Histogram):
        yield f"- buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}"
    if metric.labels or isinstance(metric, Histogram):
        yield ""
