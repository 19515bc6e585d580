# SPDX-License-Identifier: Apache-2.0
"""The numbers of a run as a table; with two builds side by side, and the ratio of the first to the second."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.resilience.outcome import Outcome, Window, quantile, refused

Key = tuple[str, str]
"""The label of a row and the last label before it that is not indented, because windows have the same labels."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: a label, a number, and how many digits after the point are shown."""

    label: str
    value: float
    digits: int = 0


def figures(outcome: Outcome, windows: Mapping[str, Window]) -> list[Figure]:
    """The rows of a run."""
    return [
        Figure("capacity, orders/s", outcome.capacity, 1),
        Figure("offered", len(outcome.responses)),
        Figure("accepted", len(outcome.orders)),
        *_by_status(outcome),
        *_by_result(outcome),
        *_times(outcome),
        *(figure for name, window in windows.items() for figure in _in_window(outcome, name, window)),
    ]


def _by_status(outcome: Outcome) -> Iterator[Figure]:
    for status in ("confirmed", "rejected", "cancelled"):
        reasons = outcome.reasons(status)
        yield Figure(f"  {status}", reasons.total())
        if status != "confirmed":
            yield from (Figure(f"    {reason}", count) for reason, count in sorted(reasons.items()))
    yield Figure("  still open", sum(order.final is None for order in outcome.orders))


def _by_result(outcome: Outcome) -> Iterator[Figure]:
    results = outcome.results()
    yield Figure("refused", sum(count for result, count in results.items() if refused(result)))
    yield from (Figure(f"  {result}", count) for result, count in sorted(results.items()) if refused(result))
    yield Figure("without a response", results["unknown"])


def _times(outcome: Outcome) -> Iterator[Figure]:
    waits = outcome.waits(outcome.load)
    yield Figure("accepted → final p50, s", quantile(waits, 0.5), 3)
    yield Figure("accepted → final p99, s", quantile(waits, 0.99), 3)
    yield Figure("HTTP response p99, s", quantile(outcome.response_seconds(), 0.99), 3)
    yield Figure("refusal p99, s", quantile(outcome.response_seconds(refused), 0.99), 3)
    late = [response.late_seconds for response in outcome.responses]
    yield Figure("load generator late p99, s", quantile(late, 0.99), 3)
    yield Figure("load generator late at most, s", max(late, default=0.0), 3)


def _in_window(outcome: Outcome, name: str, window: Window) -> Iterator[Figure]:
    yield Figure(f"{name}: seconds", window.seconds, 1)
    yield Figure("  offered/s", outcome.offered(window) / window.seconds, 1)
    yield Figure("  confirmed/s of the accepted", outcome.confirmed(window) / window.seconds, 1)
    yield Figure("  confirmed/s by their end", outcome.goodput(window), 1)
    yield Figure("  cancelled of the accepted", outcome.accepted(window, "cancelled"))
    yield Figure("  slowest accepted → final, s", max(outcome.waits(window), default=0.0), 2)


def table(names: Sequence[str], columns: Sequence[Sequence[Figure]]) -> Iterator[str]:
    """The rows of all builds; a row that only one has is empty for the other."""
    found = [_keyed(column) for column in columns]
    labels = _merged(found)
    width = max(len(label) for _, label in labels) + 2
    ratio = ["ratio"] if len(columns) > 1 else []
    yield " " * width + "".join(f"{name:>14}" for name in [*names, *ratio])
    for key in labels:
        row = [column.get(key) for column in found]
        cells = [f"{figure.value:.{figure.digits}f}" if figure else "" for figure in row]
        yield f"{key[1]:{width}}" + "".join(f"{cell:>14}" for cell in [*cells, *_ratio(row)]).rstrip()


def _merged(columns: Iterable[Iterable[Key]]) -> list[Key]:
    """Every key once; one that the first column lacks follows the key that it follows in its own column."""
    merged: list[Key] = []
    for column in columns:
        place = 0
        for key in column:
            if key not in merged:
                merged.insert(place, key)
            place = merged.index(key) + 1
    return merged


def _keyed(column: Sequence[Figure]) -> dict[Key, Figure]:
    heading, found = "", dict[Key, Figure]()
    for figure in column:
        heading = heading if figure.label.startswith(" ") else figure.label
        found[heading, figure.label] = figure
    return found


def _ratio(row: Sequence[Figure | None]) -> list[str]:
    if len(row) < 2:
        return []
    ours, base = row[0], row[1]
    return [f"{ours.value / base.value:.2f}" if ours and base and base.value else ""]
