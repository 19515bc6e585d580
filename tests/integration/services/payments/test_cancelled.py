# SPDX-License-Identifier: Apache-2.0
"""Orders that are cancelled around their charge: never charged, or refunded once."""

import pytest

from local.eventually import eventually
from orderflow.events import PaymentCaptured, PaymentRefunded
from tests.rigs.consumer import query
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.payments import Payments, Simulator, cancelled, quickly_slow, reserved

pytestmark = pytest.mark.integration


def test_a_charge_that_the_provider_executes_long_after_the_order_was_given_up_is_refunded(
    url: str, simulator: Simulator
) -> None:
    event = reserved("never")
    with Payments(url, simulator.url, timeout_seconds=0.2, settled_after_seconds=0) as payments:
        payments.receive(event)
        eventually(lambda: payments.recorded.calls["charge", "unclear"] >= 1)
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.states("charges") == {"cancelled": 1})
        simulator.execute(event)
        query(url, "update charges set due_at = now() returning 1")
        eventually(lambda: payments.states("charges") == {"refunded": 1})
    assert (simulator.charged(event.order_id), simulator.refunded(event.order_id)) == (1, 1)


def test_a_cancellation_without_a_charge_asks_the_provider_once_and_refunds_what_it_has_executed(
    url: str, simulator: Simulator
) -> None:
    forgotten, never_charged = reserved("ok"), reserved("ok")
    simulator.execute(forgotten)  # by a payments service whose database was lost
    with Payments(url, simulator.url) as payments:
        payments.receive(cancelled(forgotten.order_id), cancelled(never_charged.order_id))
        payments.receive(cancelled(forgotten.order_id), cancelled(never_charged.order_id))
        eventually(lambda: payments.states("charges") == {"refunded": 1, "cancelled": 1})
    assert payments.recorded.calls == {
        ("look_up", "captured"): 1,
        ("look_up", "not_known"): 1,
        ("refund", "refunded"): 1,
    }
    assert payments.published() == {("PaymentRefunded", forgotten.order_id): 1}
    assert (simulator.charged(forgotten.order_id), simulator.refunded(forgotten.order_id)) == (1, 1)
    assert query(url, "select 1 from charges where due_at is not null") == []


def test_an_order_that_was_cancelled_before_it_was_reserved_is_never_charged(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    with Payments(url, simulator.url) as payments:
        payments.receive(cancelled(event.order_id))
        payments.receive(event)
        payments.receive(reserved("ok"))
        eventually(lambda: payments.states("charges") == {"cancelled": 1, "captured": 1})
    assert simulator.charged(event.order_id) == 0


@pytest.mark.parametrize("turned", [False, True])
def test_an_order_that_is_reserved_and_cancelled_in_one_batch_is_never_charged(
    url: str, simulator: Simulator, turned: bool
) -> None:
    event = reserved("ok")
    batch = [event, cancelled(event.order_id)]
    with Payments(url, simulator.url) as payments:
        payments.receive(*reversed(batch) if turned else batch)
        payments.receive(reserved("ok"))
        eventually(lambda: payments.states("charges") == {"cancelled": 1, "captured": 1})
    assert simulator.charged(event.order_id) == 0


def test_an_order_that_is_cancelled_before_the_first_call_is_never_charged(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    payments = Payments(url, simulator.url)
    payments.receive(event)
    payments.receive(cancelled(event.order_id))
    with payments:
        payments.receive(reserved("ok"))
        eventually(lambda: payments.publisher.published)
    assert payments.states("charges") == {"cancelled": 1, "captured": 1}
    assert simulator.charged(event.order_id) == 0


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
    assert (simulator.charged(event.order_id), simulator.refunded(event.order_id)) == (1, 1)


def test_a_capture_during_the_cancellation_leads_to_a_refund(url: str, simulator: Simulator) -> None:
    event = reserved("slow", order_id=quickly_slow())
    with Payments(url, simulator.url, timeout_seconds=10, lease_seconds=12) as payments:
        payments.receive(event)
        eventually(lambda: query(url, "select 1 from charges where called_at is not null"))
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.publisher.published, 15)
    assert payments.recorded.calls == {("charge", "captured"): 1, ("refund", "refunded"): 1}
    assert payments.published() == {("PaymentRefunded", event.order_id): 1}


def test_a_result_waits_for_a_cancellation_that_is_being_committed(url: str, simulator: Simulator) -> None:
    event = reserved("slow", order_id=quickly_slow())
    with Payments(url, simulator.url, timeout_seconds=10, lease_seconds=12) as payments:
        payments.receive(event)
        eventually(lambda: query(url, "select 1 from charges where called_at is not null"))
        with payments.cancelling(event.order_id):
            wait_for_a_lock(url, application_name="payments calls")
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
    assert (simulator.charged(event.order_id), simulator.refunded(event.order_id)) == (1, 1)


def test_a_declined_order_that_is_cancelled_stays_declined(url: str, simulator: Simulator) -> None:
    event = reserved("decline")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"declined": 1})
        payments.receive(cancelled(event.order_id))
    assert payments.states("charges") == {"declined": 1}
