# SPDX-License-Identifier: Apache-2.0
import pytest

from orderflow.services import SERVICES
from tests.bench.history import _TABLES, _inboxes, queues
from tests.bench.pipeline import Step
from tests.bench.years import LookTimes, Years, figures
from tests.resilience.table import table

CPU = {"orders": 1.0, "postgresql": 2.0, "payment-simulator": 8.0, "trace-store": 16.0, "load generator": 32.0}


def step(confirmed: float) -> Step:
    return Step(rate=300, seconds=10, offered=300, confirmed=confirmed, p50_seconds=0.1, p95_seconds=0.2, cpu=CPU)


def years(orders: int, *confirmed: float, scanned: dict[str, int] | None = None) -> Years:
    looks = LookTimes(seconds=[0.9, 0.5, 0.7, 0.6], known_after=2, sweep_seconds=600)
    return Years(orders=orders, steps=list(map(step, confirmed)), looks=looks, pruned=5000, scanned=scanned or {})


def test_the_median_of_the_rounds_is_beside_that_of_the_empty_system() -> None:
    columns = [figures(years(10, 180, 190, 100)), figures(years(0, 200, 201, 150))]
    (row,) = [line for line in table(["years", "empty"], columns) if line.startswith("saturation")]
    assert row.split()[-3:] == ["180.0", "200.0", "0.90"]


def test_a_large_table_that_was_read_without_an_index_is_named() -> None:
    shown = {figure.label: figure.value for figure in figures(years(10, 100, scanned={"orders": 4000}))}
    assert shown["  rows of orders read without an index"] == 4000
    assert shown["  longest look, ms"] == pytest.approx(900)
    assert shown["  following looks, median, ms"] == pytest.approx(600)
    assert shown["  inbox: rows/s that arrive in each service"] == 125


def test_every_service_gets_its_history() -> None:
    assert _TABLES.keys() == {service.name for service in SERVICES}
    for service in SERVICES:
        assert [queue for queue, _ in _inboxes(service.name, 1000)] == queues(service.name)
        assert sum(rows for _, rows in _inboxes(service.name, 1000)) in range(1240, 1251)
