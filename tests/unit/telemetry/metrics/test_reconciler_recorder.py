# SPDX-License-Identifier: Apache-2.0
"""What the reconciler found is exported while it is valid; its ages always grow."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from orderflow.instrumentation import Reconciliation, Stuck
from orderflow.messaging.clock import ManualClock
from orderflow.telemetry.metrics.reconciler_recorder import ReconcilerRecorder
from orderflow.telemetry.metrics.registry import MetricRegistry

Value = Callable[..., float | None]
MISMATCHES = "orderflow_reconciler_charge_mismatches"
STUCK = "orderflow_reconciler_orders_stuck"
FOUND = Reconciliation(
    charge_mismatches=2, stuck={"reserved": Stuck(orders=3, oldest_seconds=9)}, sweep_age_seconds=100, valid_seconds=60
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def recorder(instruments: MetricRegistry, clock: ManualClock) -> ReconcilerRecorder:
    return ReconcilerRecorder(instruments, monotonic=clock.monotonic)


def exported(registry: CollectorRegistry) -> set[str]:
    return {sample.name for metric in registry.collect() for sample in metric.samples}


def test_nothing_is_exported_before_the_first_look(recorder: ReconcilerRecorder, registry: CollectorRegistry) -> None:
    assert exported(registry) == set()
    recorder.reconciled(FOUND)
    assert MISMATCHES in exported(registry)


def test_findings_vanish_when_they_are_outdated(recorder: ReconcilerRecorder, clock: ManualClock, value: Value) -> None:
    recorder.reconciled(FOUND)
    clock.advance(60)
    assert (value(MISMATCHES), value(STUCK, state="reserved"), value(STUCK, state="accepted")) == (2, 3, 0)
    clock.advance(0.1)
    assert (value(MISMATCHES), value(STUCK, state="reserved"), value(STUCK, state="accepted")) == (None, None, None)
    recorder.reconciled(Reconciliation())
    assert value(MISMATCHES) == 0


def test_findings_vanish_when_a_look_fails(recorder: ReconcilerRecorder, clock: ManualClock, value: Value) -> None:
    recorder.reconciled(FOUND)
    clock.advance(10)
    recorder.failed()
    assert (value(MISMATCHES), value(STUCK, state="reserved")) == (None, None)
    assert value("orderflow_reconciler_look_age_seconds") == 10


def test_the_ages_grow_until_a_look_and_a_sweep_end(
    recorder: ReconcilerRecorder, clock: ManualClock, value: Value
) -> None:
    clock.advance(5)
    recorder.failed()
    assert value("orderflow_reconciler_look_age_seconds") == value("orderflow_reconciler_sweep_age_seconds") == 5
    recorder.reconciled(FOUND)
    clock.advance(7)
    assert value("orderflow_reconciler_look_age_seconds") == 7
    assert value("orderflow_reconciler_sweep_age_seconds") == 107


def test_what_is_not_known_yet_is_not_exported(recorder: ReconcilerRecorder, value: Value) -> None:
    recorder.reconciled(Reconciliation(ledger_drift_units=None, oversold_units=None))
    assert value("orderflow_reconciler_ledger_drift_units") is None
    assert value("orderflow_reconciler_oversold_units") is None
    assert value(MISMATCHES) == 0


def test_it_takes_the_place_of_gauges_that_were_prepared(
    recorder: ReconcilerRecorder, instruments: MetricRegistry, value: Value
) -> None:
    instruments.prepare({"reconciling"})
    assert value(MISMATCHES) == 0
    recorder.reconciled(FOUND)
    assert value(MISMATCHES) == 2
