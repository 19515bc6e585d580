# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Sequence

import pytest

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.broker import Delivery
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.instrumentation import BatchObserver, BatchResult
from orderflow.telemetry.fanout import fan_out
from orderflow.telemetry.metrics.recorder import Recorder
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.tracer import Tracing
from tests.rigs.scripted_broker import deliver


def test_a_fault_of_the_tracer_leaves_no_batch_open(
    instruments: MetricRegistry, value: Callable[..., float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Tracing, _queue: str, _deliveries: Sequence[Delivery]) -> BatchObserver:
        raise RuntimeError("bug")

    monkeypatch.setattr(Tracing, "batch_received", broken)
    clock = ManualClock()
    recorder = Recorder(instruments, clock)
    recorder.watch(["work"])
    instrumentation = fan_out(Instrumentation, (Tracing(None, server={}, batches=True), recorder))
    instrumentation.batch_received("work", [deliver()]).handled(BatchResult(done=1))
    clock.advance(100)
    assert value("orderflow_oldest_unprocessed_age_seconds", queue="work") == 0
