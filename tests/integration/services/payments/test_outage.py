# SPDX-License-Identifier: Apache-2.0
"""The provider is away: calls are suspended, nothing is guessed, and all goes on when it is back."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from local.eventually import eventually
from orderflow.messaging.circuit_breaker import MAX_FAILURES
from orderflow.services.payments import store
from orderflow.services.payments.domain import State, Step
from orderflow.services.payments.provider import UNREACHABLE, Failed
from orderflow.services.payments.store import ChargeUpdate
from tests.rigs.consumer import one, query
from tests.rigs.payments import Payments, Simulator, reserved

pytestmark = pytest.mark.integration


def test_while_the_provider_is_away_attempts_do_not_count_and_all_is_charged_when_it_is_back(
    url: str, tmp_path: Path
) -> None:
    events = [reserved("ok") for _ in range(50)]
    with Simulator(tmp_path / "ledger.jsonl") as simulator, Payments(url, simulator.url) as payments:
        simulator.kill()
        payments.receive(*events)
        eventually(lambda: payments.reports.states == [False, True], what="an open circuit")
        before = payments.recorded.calls.total()
        eventually(lambda: payments.recorded.calls.total() >= before + 3, what="three probes")
        assert one(url, "select max(attempts) from charges") <= MAX_FAILURES - 1
        late = "select count(*) from charges where due_at > now() + interval '1 s' and leased_by is null"
        assert one(url, late) == 0
        simulator.start()
        eventually(lambda: payments.states("charges") == {"captured": 50})
        assert payments.reports.states == [False, True, False]
        assert all(simulator.charged(event.order_id) == 1 for event in events)


def test_one_waiting_charge_is_probed_every_second_however_long_the_provider_is_away(url: str, tmp_path: Path) -> None:
    """Its delay would soon be longer than the outage."""
    with Simulator(tmp_path / "ledger.jsonl") as simulator, Payments(url, simulator.url) as payments:
        simulator.kill()
        payments.receive(reserved("ok"))
        eventually(lambda: payments.recorded.calls["charge", "failed"] == MAX_FAILURES + 4, 20)
        assert query(url, "select state, attempts <= 2 from charges") == [("requested", True)]
        simulator.start()
        eventually(lambda: payments.states("charges") == {"captured": 1})


def test_a_charge_that_the_provider_executed_in_silence_is_looked_up_and_announced_once(
    url: str, tmp_path: Path
) -> None:
    events = [reserved("timeout_executed") for _ in range(5)]
    with Simulator(tmp_path / "ledger.jsonl") as simulator, Payments(url, simulator.url) as payments:
        payments.receive(*events)
        eventually(lambda: payments.reports.states[:2] == [False, True], what="an open circuit")
        assert payments.events() == [], "silence announces nothing"
        eventually(lambda: payments.states("charges") == {"captured": 5})
        assert all(simulator.charged(event.order_id) == 1 for event in events)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1 for event in events}
    assert payments.recorded.calls["charge", "captured"] == 0


def test_a_provider_that_is_suspended_is_asked_for_what_it_may_have_done(url: str, tmp_path: Path) -> None:
    with Simulator(tmp_path / "ledger.jsonl") as simulator, Payments(url, simulator.url) as payments:
        simulator.signal(signal.SIGSTOP)
        events = [reserved("ok") for _ in range(10)]
        payments.receive(*events)
        eventually(lambda: payments.reports.states == [False, True], what="an open circuit")
        eventually(lambda: payments.states("charges") == {"unknown": 10})
        simulator.signal(signal.SIGCONT)
        eventually(lambda: payments.states("charges") == {"captured": 10})
        assert all(simulator.charged(event.order_id) == 1 for event in events)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1 for event in events}


def test_when_calls_go_on_what_waits_is_due_and_what_is_in_flight_or_settled_is_not(
    url: str, simulator: Simulator
) -> None:
    waiting, settled, in_flight = (reserved("ok") for _ in range(3))
    payments = Payments(url, simulator.url)
    payments.receive(waiting, settled)
    steps = (
        (waiting, Step(state=State.REQUESTED, attempts=9, due_seconds=29)),
        (settled, Step(state=State.CANCELLED, due_seconds=20)),
    )
    with payments.work.transaction() as work:
        payments.effects.claim(work, limit=10, lease=timedelta(seconds=20))
        store.record(work, [ChargeUpdate(order_id=event.order_id, step=step) for event, step in steps])
    payments.receive(in_flight)
    with payments.work.transaction() as work:
        assert len(payments.effects.claim(work, limit=10, lease=timedelta(seconds=20))) == 1
        payments.effects.resume(work)
    assert query(url, "select order_id from charges where due_at <= now()") == [(waiting.order_id,)]
    payments.close()


def test_recording_silence_costs_two_statements(url: str, simulator: Simulator) -> None:
    payments = Payments(url, simulator.url)
    payments.receive(*[reserved("ok") for _ in range(50)])
    with payments.work.transaction() as work:
        calls = payments.effects.claim(work, limit=50, lease=timedelta(seconds=20))
    with payments.work.transaction() as work:
        payments.effects.record_without_response(work, [(call, Failed(UNREACHABLE)) for call in calls])
        assert work.statements == 4  # begin, lock, record, commit
    assert query(url, "select distinct state, attempts, due_at <= now() from charges") == [("requested", 0, True)]
    payments.close()
