# SPDX-License-Identifier: Apache-2.0
"""Charges that waited until their deadline had passed are never sent to the provider."""

from datetime import UTC, datetime, timedelta

import pytest

from local.eventually import eventually
from orderflow.events import InventoryReserved, PaymentDeclined
from orderflow.services.payments.late_charges import LIMIT
from tests.rigs.consumer import query
from tests.rigs.payments import Payments, Simulator, cancelled, reserved

pytestmark = pytest.mark.integration
PASS = "update charges set deadline = now() - interval '1 s' where order_id = '{}' returning 1"


def in_time() -> InventoryReserved:
    return reserved("ok", deadline=datetime.now(UTC) + timedelta(seconds=60))


def test_a_charge_that_waited_past_its_deadline_is_declined_without_a_call(url: str, simulator: Simulator) -> None:
    late, good, forever = in_time(), in_time(), reserved("ok")
    payments = Payments(url, simulator.url)
    payments.receive(late, good, forever)
    query(url, PASS.format(late.order_id))
    with payments:
        eventually(lambda: payments.states("charges") == {"captured": 2, "requested": 1})
        payments.decline_late()
    assert payments.published() == {
        ("PaymentDeclined", late.order_id): 1,
        ("PaymentCaptured", good.order_id): 1,
        ("PaymentCaptured", forever.order_id): 1,
    }
    assert {event.reason for event in payments.events() if isinstance(event, PaymentDeclined)} == {"deadline_exceeded"}
    row = query(url, f"select state, reason, payment_token from charges where order_id = '{late.order_id}'")
    assert row == [("declined", "deadline_exceeded", "")]
    assert (simulator.charged(late.order_id), payments.recorded.expired) == (0, 1)


def test_a_charge_whose_call_failed_is_not_made_again_past_its_deadline_and_its_cancellation_looks_it_up(
    url: str, simulator: Simulator
) -> None:
    event = reserved("error_once", deadline=datetime.now(UTC) + timedelta(seconds=60))
    payments = Payments(url, simulator.url, settled_after_seconds=0)
    payments.receive(event)
    query(url, "update charges set called_at = now() returning 1")
    query(url, PASS.format(event.order_id))
    with payments:
        good = in_time()
        payments.receive(good)
        eventually(lambda: payments.states("charges") == {"captured": 1, "requested": 1})
        payments.decline_late()
        assert payments.states("charges") == {"captured": 1, "requested": 1}, "the first call may have been executed"
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.states("charges") == {"captured": 1, "cancelled": 1})
    assert payments.recorded.calls == {("charge", "captured"): 1, ("look_up", "not_known"): 1}
    assert simulator.charged(event.order_id) == 0


def test_any_number_of_late_charges_takes_a_constant_number_of_statements(url: str, simulator: Simulator) -> None:
    payments = Payments(url, simulator.url)
    for _ in range(3):
        payments.receive(*[in_time() for _ in range(200)])
    query(url, "update charges set deadline = now() - interval '1 s' returning 1")
    with payments.work.transaction() as claiming:
        assert payments.effects.claim(claiming, limit=250, lease=timedelta(seconds=30)) == []
    payments.decline_late()
    assert payments.states("charges") == {"declined": LIMIT, "requested": 100}
    payments.decline_late()
    assert payments.states("charges") == {"declined": 600}
    payments.close()
