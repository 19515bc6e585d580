# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Sequence

import pytest

from orderflow.messaging.broker import Delivery
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.hooks import BatchSpan
from orderflow.telemetry.instruments import Instruments
from orderflow.telemetry.recorder import Recorder
from orderflow.telemetry.tracing import Tracing
from orderflow.telemetry.watching import Watching
from tests.fakes import deliver


def test_a_fault_of_the_tracer_leaves_no_batch_open(
    instruments: Instruments, value: Callable[..., float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Tracing, _queue: str, _deliveries: Sequence[Delivery]) -> BatchSpan:
        raise RuntimeError("bug")

    monkeypatch.setattr(Tracing, "batch_received", broken)
    clock = ManualClock()
    recorder = Recorder(instruments, clock)
    recorder.watch(["work"])
    watching = Watching(recorder, Tracing(None, server={}, batches=True))
    watching.batch_received("work", [deliver()])
    clock.advance(100)
    assert value("orderflow_oldest_unprocessed_age_seconds", queue="work") == 0
