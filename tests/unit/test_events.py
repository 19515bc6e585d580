# SPDX-License-Identifier: Apache-2.0
"""Bodies: every event is decoded as it was encoded, and any other body is refused with its reason."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from orderflow.events import EVENTS, OrderCreated, OrderLine, decode
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.event import Event, encode, event_type

CREATED = OrderCreated(
    timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    order_id=UUID("0198c0de-0000-7000-8000-000000000001"),
    user_id="customer-1",
    total_amount=3998,
    currency="EUR",
    items=(OrderLine(sku="sku-1", quantity=2, unit_price=1999),),
    payment_token="ok",
)
BODY = (
    b'{"event_type":"ORDER_CREATED","timestamp":"2026-01-02T03:04:05Z","version":1,'
    b'"order_id":"0198c0de-0000-7000-8000-000000000001","user_id":"customer-1","total_amount":3998,"currency":"EUR",'
    b'"items":[{"sku":"sku-1","quantity":2,"unit_price":1999}],"payment_token":"ok"}'
)


def test_the_body_on_the_wire_is_what_readers_of_version_1_know() -> None:
    assert encode(CREATED) == BODY[:-1] + b',"deadline":null,"hold_seconds":null}'
    assert decode(BODY) == decode(encode(CREATED)) == CREATED


def test_a_field_that_a_newer_publisher_added_is_ignored() -> None:
    assert decode(BODY[:-1] + b',"gift":true}') == CREATED


def test_event_names_and_routing_keys_are_unique() -> None:
    assert len({event_type(event) for event in EVENTS}) == len(EVENTS)
    assert len({event.routing_key for event in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_names_what_it_is_about(event: type[Event]) -> None:
    names = {field.name for field in msgspec.structs.fields(event)}
    assert {"timestamp", "version"} <= names
    assert names & {"order_id", "sku"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"NaN", "not_json"),
        (b"[" * 100_000, "not_an_event"),
        (b'{"event_type":1}', "not_an_event"),
        (b"[]", "not_an_event"),
        (b'{"event_type":"ORDER_SHIPPED"}', "unknown_event_type"),
        (BODY.replace(b'"version":1', b'"version":2'), "unknown_version"),
        (BODY.replace(b'"version":1', b'"version":0'), "unknown_version"),
        (BODY.replace(b'"version":1', b'"version":"1"'), "not_an_event"),
        (BODY.replace(b'"version":1', b'"version":' + b"9" * 10_000), "not_an_event"),
        (BODY.replace(b"3998", b"39.98"), "invalid_body"),
        (BODY.replace(b"3998", b"-1"), "invalid_body"),
        (BODY.replace(b"3998", b"9" * 10_000), "invalid_body"),
        (BODY.replace(b'"quantity":2', b'"quantity":0'), "invalid_body"),
        (BODY.replace(b'"items":[{"sku":"sku-1","quantity":2,"unit_price":1999}]', b'"items":[]'), "invalid_body"),
        (BODY.replace(b"sku-1", b"../etc"), "invalid_body"),
        (BODY.replace(b"sku-1", b"sku-1\\n"), "invalid_body"),
        (BODY.replace(b"EUR", b"euro"), "invalid_body"),
        (BODY.replace(b"customer-1", b"customer\\u0000"), "invalid_body"),
        (BODY.replace(b'"ok"', b'"o\\u0000k"'), "invalid_body"),
        (BODY.replace(b"05Z", b"05"), "invalid_body"),
        (BODY.replace(b"0198c0de-", b"x"), "invalid_body"),
    ],
)
def test_a_malformed_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(body)
    assert caught.value.reason == reason
