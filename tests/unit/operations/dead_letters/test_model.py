# SPDX-License-Identifier: Apache-2.0
"""Dead letters: reading, selection, replay headers, and masking of personal data."""

import gzip
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orderflow.events import OrderCreated
from orderflow.messaging.broker import Delivery, Properties
from orderflow.messaging.consume.settlement import dead_letter as service_copy
from orderflow.messaging.event import encode
from orderflow.messaging.publisher_check import Origin, PublisherCheck
from orderflow.operations.dead_letters.model import DeadLetter, Selection, dead_letter, masked_body, replay_headers
from tests.builders import NOW, an_event
from tests.rigs.scripted_broker import deliver

ORIGIN = Origin("orders", "order.created")
CHECK = PublisherCheck(mode="enforce", own_user="inventory", replay_user="replay")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def by_service(**headers: str | int) -> DeadLetter:
    """A dead letter as the core publishes it."""
    delivery = deliver(an_event(OrderCreated), message_id="m-1", headers={"traceparent": TRACE, **headers})
    copy = service_copy(
        delivery, origin=ORIGIN, queue="inventory_updates", reason="bad_data", detail="too long", now=NOW
    )
    sent = Delivery(1, "dlx", copy.routing_key, False, copy.properties, copy.body, 0.0, "inventory")
    return dead_letter(sent, copy.properties.headers, CHECK)


def by_broker(body: bytes = b"{}", **properties: Any) -> DeadLetter:
    """A dead letter of the broker, after a retry queue that added its own headers."""
    headers: dict[str, Any] = {
        "x-death": [
            {"queue": "q", "reason": "delivery_limit", "count": 1, "time": NOW, "routing-keys": ["q"]},
            {"queue": "q.retry.1s", "reason": "expired", "count": 2, "time": NOW - timedelta(hours=1)},
        ],
        "x-first-death-queue": "q.retry.1s",
        "x-first-death-reason": "expired",
        "x-last-death-queue": "q",
        "x-last-death-reason": "delivery_limit",
        "x-reason": "provider_down",
        "x-retry-count": 2,
        "x-original-routing-key": "payment.captured",
    }
    return read(headers, body, message_id="m-2", **properties)


def read(
    headers: dict[str, Any], body: bytes = b"", *, queue: str = "q", user_id: str | None = "inventory", **values: Any
) -> DeadLetter:
    """What is read from a message in the dead letter queue that failed in a queue of inventory."""
    plain = {name: value for name, value in headers.items() if isinstance(value, str | int)}
    properties = Properties(headers=plain, **values)
    return dead_letter(Delivery(1, "dlx", queue, False, properties, body, 0.0, user_id), headers, CHECK)


def test_a_dead_letter_of_a_service_has_its_reason_queue_and_trace() -> None:
    letter = by_service()
    assert (letter.reason, letter.detail, letter.queue) == ("bad_data", "too long", "inventory_updates")
    assert (letter.dead_lettered_by, letter.dead_lettered_at, letter.first_failure_at) == ("service", NOW, NOW)
    assert letter.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert letter.origin == ORIGIN
    assert letter.event_type == "ORDER_CREATED"


def test_a_dead_letter_of_the_broker_has_its_last_death_not_an_earlier_retry() -> None:
    letter = by_broker()
    assert (letter.reason, letter.queue, letter.dead_lettered_by) == ("delivery_limit", "q", "broker")
    assert letter.dead_lettered_at == NOW
    assert letter.retry_count == 2
    assert [death.reason for death in letter.history] == ["delivery_limit", "expired"]


def test_a_dead_letter_of_a_partition_belongs_to_its_declared_queue() -> None:
    death = {"queue": "q.2of4", "reason": "delivery_limit", "count": 1, "time": NOW, "exchange": "order_events"}
    letter = read({"x-death": [{**death, "routing-keys": ["payment.captured"]}]}, user_id="payments")
    assert (letter.queue, letter.reason, letter.dead_lettered_by) == ("q", "delivery_limit", "broker")
    assert letter.origin == Origin("payments", "payment.captured")


def test_headers_of_any_shape_do_not_stop_the_reading() -> None:
    odd: dict[str, Any] = {"x-death": [1, {"time": "x", "count": "y"}], "traceparent": 5, "x-first-failure-at": "never"}
    letter = read(odd, b"\xff")
    assert (letter.queue, letter.reason, letter.message_id, letter.trace_id) == ("q", "unknown", "", "")
    assert letter.first_failure_at is None


def died(*, exchange: str, routing_key: str, **headers: str | int) -> dict[str, Any]:
    """The headers of a message that the broker dead-lettered from queue q, to which it had come like this."""
    death = {"queue": "q", "reason": "expired", "time": NOW, "exchange": exchange, "routing-keys": [routing_key]}
    return {"x-death": [death], **headers}


CLAIM: dict[str, str | int] = {"x-original-user-id": "orders", "x-original-routing-key": "order.created"}


@pytest.mark.parametrize(
    ("headers", "user_id", "origin"),
    [
        # Written by the service of the queue, or by the broker from a copy of the service or of an operator.
        ({"x-dead-lettered-at": "t", **CLAIM}, "inventory", ORIGIN),
        (died(exchange="", routing_key="q", **CLAIM), "inventory", ORIGIN),
        (died(exchange="replay", routing_key="q", **CLAIM), "replay", ORIGIN),
        # Written by the broker from a first delivery: what its publisher claims does not count.
        (died(exchange="order_events", routing_key="a.b", **CLAIM), "payments", Origin("payments", "a.b")),
        (died(exchange="order_events", routing_key="a.b", **CLAIM), None, Origin(None, "a.b")),
        # Somebody who may not vouch for others.
        ({"x-dead-lettered-at": "t", **CLAIM}, "payments", Origin("payments", "q")),
        ({"x-dead-lettered-at": "t", **CLAIM}, "replay", Origin("replay", "q")),
        (died(exchange="", routing_key="q", **CLAIM), "payments", Origin("payments", "q")),
        (died(exchange="replay", routing_key="q", **CLAIM), "payments", Origin("payments", "q")),
        # The version before named no users.
        ({"x-dead-lettered-at": "t", **CLAIM}, None, Origin(None, "order.created")),
        (died(exchange="", routing_key="q", **CLAIM), None, Origin(None, "order.created")),
    ],
)
def test_the_origin_is_believed_only_from_who_may_tell_it(
    headers: dict[str, Any], user_id: str | None, origin: Origin
) -> None:
    assert read(headers, user_id=user_id).origin == origin


def test_the_queue_is_the_one_that_the_broker_allowed_not_one_that_a_header_names() -> None:
    assert read({"x-queue": "order_updates", "x-dead-lettered-at": "t"}).queue == "q"


def test_a_publisher_cannot_pass_its_expired_message_off_as_dead_lettered_by_a_service() -> None:
    headers = {"x-dead-lettered-at": "t", "x-reason": "provider_down", "x-detail": "replay me"}
    letter = read(died(exchange="order_events", routing_key="a.b", **headers), user_id="payments")
    assert (letter.dead_lettered_by, letter.reason, letter.detail) == ("broker", "expired", "")


def test_the_replay_of_a_message_without_a_known_publisher_names_none() -> None:
    letter = read({"x-dead-lettered-at": "t", **CLAIM}, user_id=None)
    assert "x-original-user-id" not in replay_headers(letter, operator="ann", now=NOW)


def test_a_replay_keeps_the_event_and_its_trace_and_forgets_the_failure() -> None:
    carried: dict[str, str | int] = {"x-occurred-at": "2026-01-01T00:00:00+00:00", "x-causation-id": "c"}
    letter = by_service(**carried, **{"x-retry-count": 8})
    assert replay_headers(letter, operator="ann", now=NOW) == {
        "traceparent": TRACE,
        "x-occurred-at": "2026-01-01T00:00:00+00:00",
        "x-causation-id": "c",
        "x-original-routing-key": "order.created",
        "x-original-user-id": "orders",
        "x-replayed-at": NOW.isoformat(),
        "x-replayed-by": "ann",
    }


def test_a_replayed_dead_letter_carries_none_of_the_brokers_headers() -> None:
    headers = replay_headers(by_broker(), operator="ann", now=NOW)
    assert set(headers) == {"x-original-routing-key", "x-replayed-at", "x-replayed-by"}
    assert headers["x-original-routing-key"] == "payment.captured"


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(), True),
        (Selection(reason="bad_data"), True),
        (Selection(reason="other"), False),
        (Selection(queue="inventory_updates", event_type="ORDER_CREATED"), True),
        (Selection(queue="order_updates"), False),
        (Selection(order_id="another-order"), False),
        (Selection(message_ids=("m-1", "m-9")), True),
        (Selection(message_ids=("m-9",)), False),
        (Selection(older_than_seconds=59), True),
        (Selection(older_than_seconds=61), False),
    ],
)
def test_a_selection_restricts_by_each_of_its_parts(selection: Selection, meant: bool) -> None:
    assert selection(by_service(), NOW + timedelta(seconds=60)) is meant


def test_a_dead_letter_of_unknown_age_is_never_selected_by_age() -> None:
    unknown = read({})
    assert not Selection(older_than_seconds=0)(unknown, datetime(2030, 1, 1, tzinfo=UTC))


def test_the_body_is_shown_without_personal_fields() -> None:
    body = masked_body(by_service())
    assert (body["user_id"], body["payment_token"]) == ("***", "***")
    assert body["event_type"] == "ORDER_CREATED"
    assert body["items"][0]["sku"]


def test_a_compressed_body_is_shown_too() -> None:
    letter = by_broker(gzip.compress(encode(an_event(OrderCreated))), content_encoding="gzip")
    assert masked_body(letter)["event_type"] == "ORDER_CREATED"


def test_fields_that_no_event_has_may_be_personal_and_are_masked() -> None:
    letter = by_broker(b'{"event_type":"X","email":"ann@example.org","items":[{"sku":"s","note":"ring twice"}]}')
    assert masked_body(letter) == {"event_type": "X", "email": "***", "items": [{"sku": "s", "note": "***"}]}


@pytest.mark.parametrize("body", [b"ann@example.org", b'"ann@example.org"', b"\xff\xfe", b"", b"[" * 5000])
def test_of_anything_but_an_object_only_size_and_digest_are_shown(body: bytes) -> None:
    shown = masked_body(by_broker(body))
    assert shown["bytes"] == len(body)
    assert set(shown) == {"not_an_object", "bytes", "sha256"}
