# SPDX-License-Identifier: Apache-2.0
"""Processes, providers and connections fail at critical points; each order is charged at most once."""

import signal
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from local.eventually import eventually
from orderflow.events import InventoryReserved
from orderflow.services.payments import PAYMENTS, store
from orderflow.services.payments.domain import State, Step
from orderflow.services.payments.provider import Captured, Unclear
from orderflow.services.payments.store import ChargeUpdate
from tests.rigs.consumer import query
from tests.rigs.instances import Member, members
from tests.rigs.payments import Payments, ProcessGroup, Simulator, cancelled, quickly_slow, reserved

pytestmark = pytest.mark.integration
CALLED = "select 1 from charges where called_at is not null"


def test_a_process_that_is_killed_in_a_call_leaves_it_to_the_next_one_which_charges_once(
    url: str, simulator: Simulator
) -> None:
    event = reserved("slow", order_id=quickly_slow())
    payments = Payments(url, simulator.url, timeout_seconds=5)
    payments.receive(event)
    with ProcessGroup("tests.rigs.payments_process", url, simulator.url, "2"):
        eventually(lambda: query(url, CALLED), 15)
    assert payments.states("charges") == {"requested": 1}
    with payments:
        eventually(lambda: payments.publisher.published, 15)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert simulator.charged(event.order_id) == 1


def test_the_calls_of_a_process_that_is_killed_are_taken_over_before_their_lease_ends(
    url: str, simulator: Simulator
) -> None:
    event = reserved("slow", order_id=quickly_slow())
    payments = Payments(url, simulator.url, timeout_seconds=5)
    payments.receive(event)
    with Member(url, service="payments", tables=PAYMENTS.leased) as survivor:
        with ProcessGroup("tests.rigs.payments_process", url, simulator.url, "3600"):
            eventually(lambda: query(url, CALLED), 15)
        eventually(lambda: survivor.sweep_for(2) == 1, what="a take-over")
        assert survivor.woken == 1
    with payments:
        eventually(lambda: payments.publisher.published, 15)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert simulator.charged(event.order_id) == 1


def test_a_process_that_is_suspended_keeps_the_calls_that_it_has_begun(url: str, simulator: Simulator) -> None:
    event = reserved("slow", order_id=quickly_slow())
    payments = Payments(url, simulator.url)
    payments.receive(event)
    with (
        Member(url, service="payments", tables=PAYMENTS.leased) as other,
        ProcessGroup("tests.rigs.payments_process", url, simulator.url, "3600") as slow,
    ):
        eventually(lambda: query(url, CALLED), 15)
        slow.signal(signal.SIGSTOP)
        assert other.sweep_for(60) == 0
        assert other.claim_charges() == 0
        slow.signal(signal.SIGCONT)
        eventually(lambda: payments.states("charges") == {"captured": 1}, 15)
    assert simulator.charged(event.order_id) == 1
    payments.close()


def test_a_take_over_changes_only_calls_that_are_in_flight(url: str, simulator: Simulator) -> None:
    in_flight, waiting, settled = reserved("ok"), reserved("ok"), reserved("ok")
    payments = Payments(url, simulator.url)
    with members(url, 2, service="payments", tables=PAYMENTS.leased) as (survivor, dead):
        payments.receive(waiting, settled)
        assert dead.claim_charges() == 2
        with dead.databases[1].transaction() as recording:
            wait = Step(state=State.REQUESTED, attempts=3, due_seconds=30)
            look_up_later = Step(state=State.CANCELLED, due_seconds=3590)
            updates = ((waiting, wait), (settled, look_up_later))
            store.record(recording, [ChargeUpdate(order_id=event.order_id, step=step) for event, step in updates])
        payments.receive(in_flight)
        assert dead.claim_charges() == 1
        dead.die()
        assert survivor.sweep_for(20) == 1
    due = query(url, "select order_id from charges where due_at <= now() and leased_by is null")
    assert due == [(in_flight.order_id,)]
    payments.close()


def test_a_provider_that_is_killed_remembers_what_it_executed(url: str, tmp_path: Path) -> None:
    events = [reserved("ok") for _ in range(300)]
    with Simulator(tmp_path / "ledger.jsonl") as simulator, Payments(url, simulator.url) as payments:
        for start in range(0, 300, 20):
            payments.receive(*events[start : start + 20])
            if start == 100:
                eventually(lambda: payments.publisher.published)
                simulator.kill()
            if start == 200:
                simulator.start()
        eventually(lambda: payments.states("charges") == {"captured": 300}, 30)
        eventually(lambda: len(payments.publisher.published) == 300)
        assert simulator.ledger()[0] == Counter(event.order_id for event in events)
    assert payments.published() == Counter(("PaymentCaptured", event.order_id) for event in events)


def test_two_processes_share_the_calls_and_none_is_made_twice(url: str, simulator: Simulator) -> None:
    events = [reserved("ok") for _ in range(500)]
    with Payments(url, simulator.url, lease_seconds=30) as one, Payments(url, simulator.url, lease_seconds=30) as two:
        one.receive(*events[:250])
        two.receive(*events[250:])
        eventually(lambda: one.states("charges") == {"captured": 500}, 20)
    assert one.recorded.calls + two.recorded.calls == {("charge", "captured"): 500}
    assert one.published() + two.published() == Counter(("PaymentCaptured", event.order_id) for event in events)


def test_a_lost_database_connection_costs_nothing(url: str, simulator: Simulator) -> None:
    events = [reserved(token) for token in ["ok", "timeout_executed"] * 100]
    break_it = partial(
        query, url, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'payments calls'"
    )
    with Payments(url, simulator.url) as payments:
        for start in range(0, 200, 20):
            payments.receive(*events[start : start + 20])
            break_it()
        eventually(lambda: payments.states("charges") == {"captured": 200}, 30)
    rows = query(url, "select properties->>'correlation_id' from outbox")
    published = Counter(key for _, key in payments.published().elements())
    published.update(UUID(order) for (order,) in rows if UUID(order) not in published)
    assert published == Counter(event.order_id for event in events)
    assert all(charged == 1 for charged in (simulator.ledger()[0][event.order_id] for event in events))


def test_a_result_that_is_recorded_twice_is_published_once(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    payments = Payments(url, simulator.url)
    payments.receive(event)
    with payments.work.transaction() as work:
        calls = payments.effects.claim(work, limit=10, lease=timedelta(seconds=30))
    for results in ([Captured("ch_1"), Captured("ch_1")], [Captured("ch_1")], [Unclear("timeout")]):
        with payments.work.transaction() as work:
            payments.effects.record(work, [(calls[0], result) for result in results])
    payments.close()
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert payments.states("charges") == {"captured": 1}


def test_messages_in_any_order_and_number_charge_each_order_at_most_once(url: str, simulator: Simulator) -> None:
    events: list[InventoryReserved] = [reserved(token) for token in ("ok", "decline", "error_once") * 10]
    batch = [*events, *map(cancelled, [event.order_id for event in events[::2]])] * 3
    with Payments(url, simulator.url) as payments:
        payments.receive(*batch)
        payments.receive(*reversed(batch))
        eventually(lambda: not query(url, "select 1 from charges where due_at is not null"))
        eventually(lambda: not payments.states("charges").keys() & {State.REQUESTED, State.REFUND_REQUESTED})
    charges, refunds = simulator.ledger()
    assert all(charges[event.order_id] == refunds[event.order_id] == 0 for event in events[::2])
    assert all(charges[event.order_id] == (event.payment_token != "decline") for event in events[1::2])
