# SPDX-License-Identifier: Apache-2.0
"""Dead letters: reading, selection, replay headers, and masking of personal data."""

import gzip
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orderflow.events import OrderCreated
from orderflow.messaging.broker import Properties
from orderflow.messaging.consume.settlement import dead_letter as service_copy
from orderflow.messaging.event import encode
from orderflow.operations.dead_letters.model import DeadLetter, Selection, dead_letter, masked_body, replay_headers
from tests.builders import NOW, an_event
from tests.rigs.scripted_broker import deliver

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def by_service(**headers: str | int) -> DeadLetter:
    """A dead letter as the core publishes it."""
    delivery = deliver(an_event(OrderCreated), message_id="m-1", headers={"traceparent": TRACE, **headers})
    copy = service_copy(delivery, queue="inventory_updates", reason="bad_data", detail="too long", now=NOW)
    return dead_letter(copy.routing_key, copy.properties, copy.properties.headers, copy.body)


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
    plain = {name: value for name, value in headers.items() if isinstance(value, str | int)}
    return dead_letter("q", Properties(message_id="m-2", headers=plain, **properties), headers, body)


def test_a_dead_letter_of_a_service_has_its_reason_queue_and_trace() -> None:
    letter = by_service()
    assert (letter.reason, letter.detail, letter.queue) == ("bad_data", "too long", "inventory_updates")
    assert (letter.dead_lettered_by, letter.dead_lettered_at, letter.first_failure_at) == ("service", NOW, NOW)
    assert letter.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert letter.original_routing_key == "order.created"
    assert letter.event_type == "ORDER_CREATED"


def test_a_dead_letter_of_the_broker_has_its_last_death_not_an_earlier_retry() -> None:
    letter = by_broker()
    assert (letter.reason, letter.queue, letter.dead_lettered_by) == ("delivery_limit", "q", "broker")
    assert letter.dead_lettered_at == NOW
    assert letter.retry_count == 2
    assert [death.reason for death in letter.history] == ["delivery_limit", "expired"]


def test_headers_of_any_shape_do_not_stop_the_reading() -> None:
    odd: dict[str, Any] = {"x-death": [1, {"time": "x", "count": "y"}], "traceparent": 5, "x-first-failure-at": "never"}
    letter = dead_letter("q", Properties(), odd, b"\xff")
    assert (letter.queue, letter.reason, letter.message_id, letter.trace_id) == ("q", "unknown", "", "")
    assert letter.first_failure_at is None


def test_a_replay_keeps_the_event_and_its_trace_and_forgets_the_failure() -> None:
    carried: dict[str, str | int] = {"x-occurred-at": "2026-01-01T00:00:00+00:00", "x-causation-id": "c"}
    letter = by_service(**carried, **{"x-retry-count": 8})
    assert replay_headers(letter, operator="ann", now=NOW) == {
        "traceparent": TRACE,
        "x-occurred-at": "2026-01-01T00:00:00+00:00",
        "x-causation-id": "c",
        "x-original-routing-key": "order.created",
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
    unknown = dead_letter("q", Properties(), {}, b"")
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
