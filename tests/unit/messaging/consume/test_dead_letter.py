# SPDX-License-Identifier: Apache-2.0
from uuid import uuid4

from orderflow.messaging.consume.settlement import dead_letter, retry_copy
from orderflow.messaging.publisher_check import Origin
from tests.builders import NOW
from tests.rigs.scripted_broker import deliver

ORIGIN = Origin("orders", "order.cancelled")


def test_a_dead_letter_has_the_queue_time_and_reason_of_its_failure() -> None:
    delivery = deliver(message_id=uuid4(), headers={"traceparent": "00-a-b-01", "x-retry-count": 8})
    dead = dead_letter(delivery, origin=ORIGIN, queue="order_updates", reason="bad_data", detail="refused", now=NOW)
    assert (dead.exchange, dead.routing_key, dead.body) == ("dlx", "order_updates", delivery.body)
    assert dead.properties.message_id == delivery.properties.message_id
    assert dead.properties.headers == {
        "traceparent": "00-a-b-01",
        "x-retry-count": 8,
        "x-reason": "bad_data",
        "x-detail": "refused",
        "x-queue": "order_updates",
        "x-first-failure-at": NOW.isoformat(),
        "x-dead-lettered-at": NOW.isoformat(),
        "x-original-routing-key": "order.cancelled",
        "x-original-user-id": "orders",
    }


def test_a_dead_letter_that_was_retried_keeps_its_first_failure_and_routing_key() -> None:
    retried = retry_copy(deliver(), origin=ORIGIN, queue="q", reason="later", delay_seconds=1, now=NOW)
    again = deliver(headers=retried.properties.headers)
    now = NOW.replace(hour=20)
    headers = dead_letter(again, origin=ORIGIN, queue="q", reason="late", detail="", now=now).properties.headers
    assert headers["x-first-failure-at"] == NOW.isoformat()
    assert headers["x-dead-lettered-at"] == now.isoformat()
    assert headers["x-original-routing-key"] == "order.cancelled"


def test_a_message_without_an_id_can_be_a_dead_letter() -> None:
    delivery = deliver(body=b"?", headers={})
    dead = dead_letter(delivery, origin=ORIGIN, queue="q", reason="not_json", detail="x" * 1000, now=NOW)
    assert dead.properties.headers["x-detail"] == "x" * 200
