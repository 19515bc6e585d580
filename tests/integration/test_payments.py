# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from orderflow.messages import InventoryReserved, PaymentCaptured, PaymentDeclined, PaymentRefunded
from orderflow.operations.payment_simulator import slow_seconds
from orderflow.services.payments.gateway import Captured, Unclear
from orderflow.services.payments.state import State
from tests.effects_rig import TRACE
from tests.fakes import eventually
from tests.payments_rig import (
    Payments,
    ProcessGroup,
    Simulator,
    cancelled,
    prepare_service,
    reserved,
)
from tests.rig import one, query

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with Simulator(tmp_path_factory.mktemp("provider") / "ledger.jsonl") as simulator:
        yield simulator


@pytest.fixture
def url(database: str) -> str:
    prepare_service(database, "payments")
    return database


def charged(simulator: Simulator, order_id: UUID) -> int:
    return simulator.ledger()[0][order_id]


def refunded(simulator: Simulator, order_id: UUID) -> int:
    return simulator.ledger()[1][order_id]


def quickly_slow() -> UUID:
    """An order whose slow charge takes little more than 2 s."""
    return next(order for order in iter(uuid4, None) if slow_seconds(str(order)) < 2.3)


def test_a_reserved_order_is_charged_and_the_capture_belongs_to_the_message_that_asked(
    url: str, simulator: Simulator
) -> None:
    event = reserved("ok", total_amount=4200)
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published)
    (captured,) = payments.events()
    (publication,) = payments.publisher.published
    assert isinstance(captured, PaymentCaptured)
    assert (captured.order_id, captured.total_amount, captured.user_id) == (event.order_id, 4200, event.user_id)
    assert publication.properties.correlation_id == str(event.order_id)
    assert publication.properties.headers["traceparent"] == TRACE["traceparent"]
    assert publication.properties.headers["x-causation-id"] == str(one(url, "select message_id from inbox"))
    assert charged(simulator, event.order_id) == 1


@pytest.mark.parametrize("token", ["decline", "a token that nobody knows"])
def test_a_declined_charge_is_told_once(url: str, simulator: Simulator, token: str) -> None:
    event = reserved(token)
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published)
    (declined,) = payments.events()
    assert isinstance(declined, PaymentDeclined)
    assert declined.reason == "payment_declined"
    assert charged(simulator, event.order_id) == 0


def test_a_provider_that_fails_once_is_asked_again_and_charges_once(url: str, simulator: Simulator) -> None:
    event = reserved("error_once")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"captured": 1})
    assert payments.watch.calls == {("charge", "failed"): 1, ("charge", "captured"): 1}
    assert charged(simulator, event.order_id) == 1


def test_a_charge_that_was_executed_but_never_answered_is_found_by_asking(url: str, simulator: Simulator) -> None:
    event = reserved("timeout_executed")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"unknown": 1})
        eventually(lambda: payments.publisher.published)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert payments.watch.calls == {("charge", "unclear"): 1, ("look_up", "captured"): 1}
    assert charged(simulator, event.order_id) == 1


def test_a_slow_charge_is_waited_for_by_asking_and_by_charging_with_the_same_key(
    url: str, simulator: Simulator
) -> None:
    event = reserved("slow", order_id=quickly_slow())
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published, 15)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert charged(simulator, event.order_id) == 1


def test_silence_is_never_a_decline_and_ends_with_the_order(url: str, simulator: Simulator) -> None:
    event = reserved("never")
    with Payments(url, simulator.url, timeout_seconds=0.2, settled_after_seconds=1) as payments:
        payments.receive(event)
        eventually(lambda: payments.watch.calls["charge", "unclear"] >= 2)
        payments.receive(cancelled(event.order_id))
        payments.count_unknown()
        eventually(lambda: payments.states("charges") == {"cancelled": 1})
        payments.count_unknown()
    assert payments.events() == []
    assert payments.watch.unknown == [1, 0]
    assert charged(simulator, event.order_id) == 0
    ((minutes, token, reason),) = query(
        url, "select extract(epoch from due_at - now()) / 60, payment_token, reason from charges"
    )
    assert 59 < minutes < 60
    assert (token, reason) == ("", "hold_expired")


def test_a_charge_that_the_provider_executes_long_after_the_order_was_given_up_is_refunded(
    url: str, simulator: Simulator
) -> None:
    event = reserved("never")
    with Payments(url, simulator.url, timeout_seconds=0.2, settled_after_seconds=0) as payments:
        payments.receive(event)
        eventually(lambda: payments.watch.calls["charge", "unclear"] >= 1)
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.states("charges") == {"cancelled": 1})
        simulator.execute(event)
        query(url, "update charges set due_at = now() returning 1")
        eventually(lambda: payments.states("charges") == {"refunded": 1})
    assert (charged(simulator, event.order_id), refunded(simulator, event.order_id)) == (1, 1)


def test_an_order_that_was_cancelled_before_it_was_reserved_is_never_charged(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    with Payments(url, simulator.url) as payments:
        payments.receive(cancelled(event.order_id))
        payments.receive(event)
        payments.receive(reserved("ok"))
        eventually(lambda: payments.publisher.published)
    assert payments.states("charges") == {"cancelled": 1, "captured": 1}
    assert charged(simulator, event.order_id) == 0


@pytest.mark.parametrize("turned", [False, True])
def test_an_order_that_is_reserved_and_cancelled_in_one_batch_is_never_charged(
    url: str, simulator: Simulator, turned: bool
) -> None:
    event = reserved("ok")
    batch = [event, cancelled(event.order_id)]
    with Payments(url, simulator.url) as payments:
        payments.receive(*reversed(batch) if turned else batch)
        payments.receive(reserved("ok"))
        eventually(lambda: payments.publisher.published)
    assert payments.states("charges") == {"cancelled": 1, "captured": 1}
    assert charged(simulator, event.order_id) == 0


def test_an_order_that_is_cancelled_before_the_first_call_is_never_charged(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    payments = Payments(url, simulator.url)
    payments.receive(event)
    payments.receive(cancelled(event.order_id))
    with payments:
        payments.receive(reserved("ok"))
        eventually(lambda: payments.publisher.published)
    assert payments.states("charges") == {"cancelled": 1, "captured": 1}
    assert charged(simulator, event.order_id) == 0


def test_a_charge_that_succeeds_after_its_order_was_cancelled_is_refunded_once(url: str, simulator: Simulator) -> None:
    event = reserved("slow", order_id=quickly_slow())
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: query(url, "select 1 from charges where called_at is not null"))
        payments.receive(cancelled(event.order_id))
        payments.receive(cancelled(event.order_id))
        assert payments.states("charges") == {"cancelling": 1}
        eventually(lambda: payments.publisher.published, 15)
    assert payments.published() == {("PaymentRefunded", event.order_id): 1}
    assert payments.states("charges") == {"refunded": 1}
    assert (charged(simulator, event.order_id), refunded(simulator, event.order_id)) == (1, 1)


def test_an_answer_that_comes_while_the_order_is_cancelled_leads_to_a_refund(url: str, simulator: Simulator) -> None:
    event = reserved("slow", order_id=quickly_slow())
    with Payments(url, simulator.url, timeout_seconds=10, lease_seconds=12) as payments:
        payments.receive(event)
        eventually(lambda: query(url, "select 1 from charges where called_at is not null"))
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.publisher.published, 15)
    assert payments.watch.calls == {("charge", "captured"): 1, ("refund", "refunded"): 1}
    assert payments.published() == {("PaymentRefunded", event.order_id): 1}


def test_an_answer_waits_for_a_cancellation_that_is_being_committed(url: str, simulator: Simulator) -> None:
    event = reserved("slow", order_id=quickly_slow())
    waiting = "select 1 from pg_stat_activity where application_name = 'payments calls' and wait_event_type = 'Lock'"
    with Payments(url, simulator.url, timeout_seconds=10, lease_seconds=12) as payments:
        payments.receive(event)
        eventually(lambda: query(url, "select 1 from charges where called_at is not null"))
        with payments.cancelling(event.order_id):
            eventually(lambda: query(url, waiting), 15)
        eventually(lambda: payments.publisher.published)
    assert payments.published() == {("PaymentRefunded", event.order_id): 1}


def test_a_captured_charge_of_a_cancelled_order_is_refunded_once_with_its_reason(
    url: str, simulator: Simulator
) -> None:
    event = reserved("ok")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"captured": 1})
        payments.receive(cancelled(event.order_id), cancelled(event.order_id))
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.states("charges") == {"refunded": 1})
        payments.receive(event, cancelled(event.order_id))
    captured, refund = payments.events()
    assert isinstance(captured, PaymentCaptured)
    assert isinstance(refund, PaymentRefunded)
    assert (refund.reason, refund.charge_id) == ("hold_expired", captured.charge_id)
    assert (charged(simulator, event.order_id), refunded(simulator, event.order_id)) == (1, 1)


def test_a_declined_order_that_is_cancelled_stays_declined(url: str, simulator: Simulator) -> None:
    event = reserved("decline")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"declined": 1})
        payments.receive(cancelled(event.order_id))
    assert payments.states("charges") == {"declined": 1}


def test_a_process_that_is_killed_in_a_call_leaves_it_to_the_next_one_which_charges_once(
    url: str, simulator: Simulator
) -> None:
    event = reserved("slow", order_id=quickly_slow())
    payments = Payments(url, simulator.url, timeout_seconds=5)
    payments.receive(event)
    with ProcessGroup("tests.payments_process", url, simulator.url):
        eventually(lambda: query(url, "select 1 from charges where called_at is not null"), 15)
    assert payments.states("charges") == {"requested": 1}
    with payments:
        eventually(lambda: payments.publisher.published, 15)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert charged(simulator, event.order_id) == 1


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
    assert one.watch.calls + two.watch.calls == {("charge", "captured"): 500}
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
    told = Counter(key for _, key in payments.published().elements())
    told.update(UUID(order) for (order,) in rows if UUID(order) not in told)
    assert told == Counter(event.order_id for event in events)
    assert all(charged == 1 for charged in (simulator.ledger()[0][event.order_id] for event in events))


def test_an_answer_that_is_recorded_twice_is_told_once(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    payments = Payments(url, simulator.url)
    payments.receive(event)
    with payments.work.transaction() as work:
        calls = payments.effects.claim(work, limit=10, lease=timedelta(seconds=30))
    for answers in ([Captured("ch_1"), Captured("ch_1")], [Captured("ch_1")], [Unclear("timeout")]):
        with payments.work.transaction() as work:
            payments.effects.record(work, [(calls[0], answer) for answer in answers])
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


def test_a_batch_of_250_costs_few_statements(url: str, simulator: Simulator) -> None:
    with Payments(url, simulator.url, concurrency=250) as payments:
        eventually(lambda: payments.work.statements)
        before = payments.work.statements
        verdicts = payments.receive(*[reserved("ok") for _ in range(250)])
        eventually(lambda: len(payments.publisher.published) == 250)
        calling = payments.work.statements - before
    assert verdicts.outcomes.done == 250
    assert verdicts.outcomes.statements == 4  # begin, inbox, charges, commit
    assert calling / 250 < 0.25, f"{calling} statements for 250 charges"
