# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry

Value = Callable[..., float | None]


def test_a_label_beyond_its_bound_is_counted_as_other(instruments: MetricRegistry, value: Value) -> None:
    for number in range(100):
        instruments.counter(catalogue.DEAD_LETTERED, "q", f"reason_{number}").inc()
    label = catalogue.DEAD_LETTERED.labels[1]
    free = label.max_values - len(label.values)
    assert value(catalogue.DEAD_LETTERED.name, queue="q", reason=f"reason_{free - 1}") == 1
    assert value(catalogue.DEAD_LETTERED.name, queue="q", reason=f"reason_{free}") is None
    assert value(catalogue.DEAD_LETTERED.name, queue="q", reason="other") == 100 - free


def test_a_closed_label_takes_no_word_that_is_not_known(instruments: MetricRegistry, value: Value) -> None:
    instruments.counter(catalogue.ORDERS_FINAL, "lost").inc()
    assert value(catalogue.ORDERS_FINAL.name, outcome="lost") is None
    assert value(catalogue.ORDERS_FINAL.name, outcome="other") == 1


def test_the_metrics_of_an_area_stand_at_zero_for_what_is_given(registry: CollectorRegistry, value: Value) -> None:
    instruments = MetricRegistry(registry, given={"queue": ["order_updates"], "role": ["publish"]})
    instruments.prepare({"consuming", "publishing"})
    assert value(catalogue.CONSUMED.name, queue="order_updates") == 0
    assert value(catalogue.DEAD_LETTERED.name, queue="order_updates", reason="not_json") == 0
    assert value(catalogue.CONNECTED.name, role="publish") == 0
    assert value(catalogue.CONNECTED.name, role="consume") is None
    assert value(catalogue.MESSAGE_AGE.name + "_count", queue="order_updates") == 0


def test_the_metrics_of_other_areas_are_absent_until_used(
    instruments: MetricRegistry, registry: CollectorRegistry
) -> None:
    instruments.prepare({"consuming"})
    assert catalogue.OVERSOLD.name.encode() not in generate_latest(registry)
    instruments.gauge(catalogue.OVERSOLD).set(3)
    assert catalogue.OVERSOLD.name.encode() + b" 3.0" in generate_latest(registry)


def test_the_same_child_is_given_again(instruments: MetricRegistry) -> None:
    assert instruments.counter(catalogue.REPLAYS) is instruments.counter(catalogue.REPLAYS)
    assert instruments.counter(catalogue.CONSUMED, "q") is instruments.counter(catalogue.CONSUMED, "q")


def test_the_number_of_labels_must_fit(instruments: MetricRegistry) -> None:
    with pytest.raises(ValueError, match="2 labels"):
        instruments.counter(catalogue.DEAD_LETTERED, "q")


def test_a_scraped_gauge_has_the_series_of_the_moment(instruments: MetricRegistry, value: Value) -> None:
    gauge = instruments.scraped(catalogue.LOOP_IDLE)
    instruments.prepare({"process"})
    assert value(catalogue.LOOP_IDLE.name, loop="relay") is None
    gauge.read = lambda: {"relay": 2.5}
    assert value(catalogue.LOOP_IDLE.name, loop="relay") == 2.5
    assert instruments.scraped(catalogue.LOOP_IDLE) is gauge


def test_a_gauge_that_is_removed_is_absent_until_it_is_set_again(instruments: MetricRegistry, value: Value) -> None:
    instruments.remove(catalogue.QUEUES_UNREAD)
    instruments.gauge(catalogue.QUEUES_UNREAD).set(2)
    instruments.gauge(catalogue.OVERSOLD).set(3)
    instruments.remove(catalogue.QUEUES_UNREAD)
    assert value(catalogue.QUEUES_UNREAD.name) is None
    assert value(catalogue.OVERSOLD.name) == 3
    instruments.gauge(catalogue.QUEUES_UNREAD).set(1)
    assert value(catalogue.QUEUES_UNREAD.name) == 1
