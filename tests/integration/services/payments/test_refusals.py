# SPDX-License-Identifier: Apache-2.0
"""The provider refuses a call with a 4xx: a final state with a reason, not endless retries."""

import json
import logging
from collections.abc import Sequence

import pytest

from local.eventually import eventually
from orderflow.events import InventoryReserved, PaymentDeclined, PaymentRefunded, decode
from orderflow.operations.failed_work.refunds import REFUNDS
from orderflow.services.payments.domain import CONFLICTS
from tests.rigs.consumer import one, query
from tests.rigs.failed_work import listed, run
from tests.rigs.notifications import webhook
from tests.rigs.payments import Payments, Simulator, cancelled, reserved

pytestmark = pytest.mark.integration


def refuse_a_refund(payments: Payments) -> InventoryReserved:
    """An order that was charged and cancelled, and whose charge the provider does not know any more."""
    event = reserved("ok")
    payments.receive(event)
    eventually(lambda: payments.states("charges")["captured"] == 1)
    query(payments.url, "update charges set charge_id = 'ch_gone' where state = 'captured' returning 1")
    payments.receive(cancelled(event.order_id))
    eventually(lambda: payments.states("charges")["refund_failed"] == 1, what="a refused refund")
    return event


def test_a_refund_that_the_provider_refuses_waits_for_an_operator_with_its_reason(
    url: str, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    with Payments(url, simulator.url) as payments:
        event = refuse_a_refund(payments)
        good = reserved("ok")
        payments.receive(good)
        eventually(lambda: payments.published()["PaymentCaptured", good.order_id])
        payments.count_charges()
    assert payments.recorded.calls["refund", "refused"] == 1
    assert payments.recorded.failed_refunds == [1]
    row = query(url, f"select state, refusal, reason, due_at from charges where order_id = '{event.order_id}'")
    assert row == [("refund_failed", "unknown_charge", "hold_expired", None)]
    (record,) = [record for record in caplog.records if record.message == "refund.refused"]
    assert (record.levelno, record.__dict__["order_id"]) == (logging.ERROR, str(event.order_id))
    assert ("PaymentRefunded", event.order_id) not in payments.published()


def test_an_operator_lists_a_refused_refund_and_retries_it_when_the_cause_is_gone(
    url: str, simulator: Simulator
) -> None:
    with Payments(url, simulator.url) as payments:
        event = refuse_a_refund(payments)
        (found,) = listed(REFUNDS, url)
        assert (found["order_id"], found["reason"]) == (str(event.order_id), "unknown_charge")
        assert run(REFUNDS, url, "list") == 0, "a table"
        assert run(REFUNDS, url, "retry") == 2, "nothing is selected"
        assert run(REFUNDS, url, "retry", "unknown") == 1
        (charge,) = [
            row for row in json.loads(simulator.get("/v1/ledger"))["charges"] if row["reference"] == str(event.order_id)
        ]
        query(url, f"update charges set charge_id = '{charge['charge_id']}' returning 1")
        assert run(REFUNDS, url, "retry", str(event.order_id)) == 0
        eventually(lambda: payments.states("charges") == {"refunded": 1})
    assert simulator.refunded(event.order_id) == 1


def test_a_refund_that_was_made_by_hand_is_settled_and_announced_once(url: str, simulator: Simulator) -> None:
    event = reserved("ok")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.states("charges") == {"captured": 1})
        simulator.refund_by_hand(str(one(url, "select charge_id from charges")), event.total_amount)
        payments.receive(cancelled(event.order_id))
        eventually(lambda: payments.states("charges") == {"refund_failed": 1}, 30)
    assert payments.recorded.calls["refund", "refused"] == CONFLICTS
    assert one(url, "select refusal from charges") == "already_refunded"
    assert run(REFUNDS, url, "settle", "--all") == 2, "it needs --yes"
    assert run(REFUNDS, url, "settle", "--all", "--yes") == 0
    assert run(REFUNDS, url, "settle", str(event.order_id), "--yes") == 1, "it is settled"
    assert payments.states("charges") == {"refunded": 1}
    (announced,) = decoded(url)
    assert isinstance(announced, PaymentRefunded)
    assert (announced.order_id, announced.reason) == (event.order_id, "hold_expired")


def decoded(url: str) -> Sequence[object]:
    """The events that the relay would publish now."""
    due = "select body from outbox where leased_until <= now() and routing_key = 'payment.refunded'"
    return [decode(bytes(body)) for (body,) in query(url, due)]


def test_a_charge_that_the_provider_refuses_is_declined_with_its_reason(url: str, simulator: Simulator) -> None:
    event = reserved("refuse")
    with Payments(url, simulator.url) as payments:
        payments.receive(event)
        eventually(lambda: payments.publisher.published, what="a decline")
    (declined,) = payments.events()
    assert isinstance(declined, PaymentDeclined)
    assert declined.reason == "payment_refused"
    assert query(url, "select state, reason, refusal from charges") == [
        ("declined", "payment_refused", "unusable_token")
    ]
    assert payments.recorded.calls == {("charge", "refused"): 1}


@pytest.mark.parametrize("status", [401, 403])
def test_a_provider_that_refuses_our_credentials_declines_no_order(url: str, status: int) -> None:
    """It concerns every customer and is put right, so the calls are suspended meanwhile."""
    with webhook() as provider, Payments(url, provider.url.removesuffix("/hook")) as payments:
        provider.statuses = [status] * 1000
        payments.receive(*[reserved("ok") for _ in range(20)])
        eventually(lambda: payments.reports.states == [False, True], what="an open circuit")
        eventually(lambda: query(url, "select 1 from charges having count(leased_by) <= 1"))
    assert payments.states("charges") == {"requested": 20}
    assert payments.published() == {}
    assert one(url, "select max(attempts) from charges") <= 2
