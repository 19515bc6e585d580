# SPDX-License-Identifier: Apache-2.0
"""The responses of the provider to a charge, and the events that follow."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from local.eventually import eventually
from orderflow.events import PaymentCaptured, PaymentDeclined
from orderflow.services.payments.provider import Captured
from tests.rigs.consumer import one, query
from tests.rigs.effects import TRACE
from tests.rigs.payments import Payments, Simulator, cancelled, quickly_slow, reserved

pytestmark = pytest.mark.integration


def record_states(url: str) -> None:
    """From now on the table ``seen`` has each state that a charge was in, however briefly."""
    with psycopg.connect(url) as connection:
        connection.execute("""
            create table seen (state text not null);
            create function see() returns trigger language plpgsql as $$
            begin insert into seen values (new.state); return null; end $$;
            create trigger see after insert or update on charges for each row execute function see()""")


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
    assert simulator.charged(event.order_id) == 1


def test_an_order_past_its_deadline_is_declined_without_a_call(url: str, simulator: Simulator) -> None:
    late = reserved("ok", deadline=datetime.now(UTC) - timedelta(seconds=1))
    good = reserved("ok", deadline=datetime.now(UTC) + timedelta(seconds=60))
    with Payments(url, simulator.url) as payments:
        payments.receive(late, good)
        eventually(lambda: len(payments.publisher.published) == 2)
        payments.receive(cancelled(late.order_id))
    assert payments.published() == {("PaymentDeclined", late.order_id): 1, ("PaymentCaptured", good.order_id): 1}
    assert {event.reason for event in payments.events() if isinstance(event, PaymentDeclined)} == {"deadline_exceeded"}
    assert payments.states("charges") == {"captured": 1, "declined": 1}
    assert (simulator.charged(late.order_id), simulator.charged(good.order_id)) == (0, 1)
    assert payments.recorded.expired == 1


@pytest.mark.parametrize("token", ["decline", "an unknown token"])
def test_a_declined_charge_is_published_once(url: str, simulator: Simulator, token: str) -> None:
    event = reserved(token)
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published)
    (declined,) = payments.events()
    assert isinstance(declined, PaymentDeclined)
    assert declined.reason == "payment_declined"
    assert simulator.charged(event.order_id) == 0


def test_a_provider_that_fails_once_is_asked_again_and_charges_once(url: str, simulator: Simulator) -> None:
    event = reserved("error_once")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"captured": 1})
    assert payments.recorded.calls == {("charge", "failed"): 1, ("charge", "captured"): 1}
    assert simulator.charged(event.order_id) == 1


def test_an_executed_charge_without_a_response_is_found_by_a_look_up(url: str, simulator: Simulator) -> None:
    event = reserved("timeout_executed")
    record_states(url)
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published)
    assert set(query(url, "select state from seen")) == {("requested",), ("unknown",), ("captured",)}
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert payments.recorded.calls == {("charge", "unclear"): 1, ("look_up", "captured"): 1}
    assert simulator.charged(event.order_id) == 1


def test_a_slow_charge_is_waited_for_by_asking_and_by_charging_with_the_same_key(
    url: str, simulator: Simulator
) -> None:
    event = reserved("slow", order_id=quickly_slow())
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published, 15)
    assert payments.published() == {("PaymentCaptured", event.order_id): 1}
    assert simulator.charged(event.order_id) == 1


def test_a_missing_response_is_never_a_decline_and_ends_with_the_order(url: str, simulator: Simulator) -> None:
    event = reserved("never")
    with Payments(url, simulator.url, timeout_seconds=0.2, settled_after_seconds=1) as payments:
        payments.receive(event)
        eventually(lambda: payments.recorded.calls["charge", "unclear"] >= 2)
        payments.receive(cancelled(event.order_id))
        payments.count_charges()
        eventually(lambda: payments.states("charges") == {"cancelled": 1})
        payments.count_charges()
    assert payments.events() == []
    assert payments.recorded.unknown == [1, 0]
    assert simulator.charged(event.order_id) == 0
    ((minutes, token, reason),) = query(
        url, "select extract(epoch from due_at - now()) / 60, payment_token, reason from charges"
    )
    assert 59 < minutes < 60
    assert (token, reason) == ("", "hold_expired")


def test_a_batch_of_250_costs_few_statements(url: str, simulator: Simulator) -> None:
    payments = Payments(url, simulator.url)
    progress = payments.receive(*[reserved("ok") for _ in range(250)])
    assert progress.outcomes.done == 250
    assert progress.outcomes.statements == 4  # begin, inbox, charges, commit
    with payments.work.transaction() as claiming:
        calls = payments.effects.claim(claiming, limit=250, lease=timedelta(seconds=30))
    assert (len(calls), claiming.statements) == (250, 3)  # begin, claim, commit
    with payments.work.transaction() as recording:
        payments.effects.record(recording, [(call, Captured(f"charge-{call.payment.order_id}")) for call in calls])
    assert recording.statements == 5  # begin, lock, record, outbox, commit
    assert len(payments.publisher.published) == 250
    payments.close()
