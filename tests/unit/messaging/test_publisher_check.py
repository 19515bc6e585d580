# SPDX-License-Identifier: Apache-2.0
"""An event counts when it came by its own routing key, from the user of the service that owns it."""

from dataclasses import replace
from typing import Any

import pytest

from orderflow.events import EVENTS, PaymentCaptured, StockChanged, StockLow
from orderflow.messaging.broker import Delivery
from orderflow.messaging.codec import RETRY_COUNT
from orderflow.messaging.consume.settlement import dead_letter, retry_copy
from orderflow.messaging.errors import MalformedMessage
from orderflow.messaging.event import Event
from orderflow.messaging.publisher_check import ORIGINAL_ROUTING_KEY, ORIGINAL_USER_ID, Mode, Origin, PublisherCheck
from orderflow.services import SERVICES
from tests.builders import NOW, a_codec, an_event
from tests.rigs.scripted_broker import deliver

OWNERS = {event: f"blue-{service.name}" for service in SERVICES for event in service.publishes}
CAPTURED = an_event(PaymentCaptured)
BY_PAYMENTS = {ORIGINAL_USER_ID: "blue-payments", ORIGINAL_ROUTING_KEY: "payment.captured"}


def checking(mode: Mode) -> PublisherCheck:
    """What the consumers of orders believe."""
    return PublisherCheck(mode=mode, own_user="blue-orders", replay_user="blue-replay", owners=OWNERS)


CHECK = checking("enforce")


def verdict(delivery: Delivery, check: PublisherCheck = CHECK) -> str:
    """The reason why a delivery is refused, or ``accepted``."""
    try:
        a_codec("orders", publishers=check).incoming(delivery, EVENTS, {})
    except MalformedMessage as error:
        return error.reason
    return "accepted"


def first(event: Event = CAPTURED, **how: Any) -> Delivery:
    """A first delivery, as its owner publishes it unless told otherwise."""
    return deliver(event, **{"user_id": OWNERS[type(event)], **how})


def returned(exchange: str = "", **how: Any) -> Delivery:
    """A copy that came back to the queue of orders."""
    values = {"routing_key": "order_updates", "user_id": "blue-orders", "headers": BY_PAYMENTS, **how}
    return deliver(CAPTURED, exchange=exchange, **values)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_accepted_from_its_owner_and_from_no_other_service(kind: type[Event]) -> None:
    event = an_event(kind)
    users = {f"blue-{service.name}" for service in SERVICES} | {"blue-replay", "orders", "green-orders", ""}
    accepted = {user for user in users if verdict(first(event, user_id=user)) == "accepted"}
    assert accepted == {OWNERS[kind]}


@pytest.mark.parametrize("mode", ["enforce", "accept-missing", "off"])
def test_a_body_under_another_events_routing_key_is_refused_in_every_mode(mode: Mode) -> None:
    forged = first(routing_key="inventory.reserved", user_id="blue-inventory")
    assert verdict(forged, checking(mode)) == "wrong_routing_key"
    assert verdict(first(routing_key="payment.declined"), checking(mode)) == "wrong_routing_key"


def test_an_event_that_extends_another_has_a_routing_key_of_its_own() -> None:
    assert verdict(first(an_event(StockLow), routing_key="stock.changed")) == "wrong_routing_key"
    assert verdict(first(an_event(StockChanged), routing_key="stock.changed.low")) == "wrong_routing_key"


@pytest.mark.parametrize(
    ("mode", "wrong", "missing"),
    [
        ("enforce", "wrong_publisher", "missing_user_id"),
        ("accept-missing", "wrong_publisher", "accepted"),
        ("off", "accepted", "accepted"),
    ],
)
def test_a_mode_says_what_becomes_of_a_wrong_and_of_a_missing_user(mode: Mode, wrong: str, missing: str) -> None:
    check = checking(mode)
    assert verdict(first(user_id="blue-inventory"), check) == wrong
    assert verdict(first(user_id=None), check) == missing
    assert verdict(returned(user_id=None), check) == missing
    assert verdict(returned("replay", user_id=None), check) == missing


def test_an_event_that_no_service_owns_is_accepted_from_nobody() -> None:
    check = PublisherCheck(mode="enforce", own_user="blue-orders", replay_user="blue-replay")
    assert {verdict(first(user_id=user), check) for user in ("blue-payments", "", None)} == {
        "wrong_publisher",
        "missing_user_id",
    }


def test_a_retry_comes_from_its_own_service_and_a_replay_from_the_operators() -> None:
    assert verdict(returned()) == "accepted"
    assert verdict(returned("replay", user_id="blue-replay")) == "accepted"


@pytest.mark.parametrize(
    ("exchange", "user_id"),
    [("", "blue-inventory"), ("", "blue-payments"), ("", "blue-replay"), ("replay", "blue-orders"), ("", None)],
)
def test_the_headers_of_a_copy_are_believed_from_nobody_else(exchange: str, user_id: str | None) -> None:
    assert verdict(returned(exchange, user_id=user_id)) != "accepted"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({ORIGINAL_USER_ID: "blue-inventory", ORIGINAL_ROUTING_KEY: "payment.captured"}, "wrong_publisher"),
        ({ORIGINAL_USER_ID: "blue-payments", ORIGINAL_ROUTING_KEY: "inventory.reserved"}, "wrong_routing_key"),
        ({ORIGINAL_ROUTING_KEY: "payment.captured"}, "missing_user_id"),
        ({ORIGINAL_USER_ID: "blue-payments"}, "wrong_routing_key"),
        ({}, "wrong_routing_key"),
        ({**BY_PAYMENTS, ORIGINAL_USER_ID: 7}, "missing_user_id"),
        ({**BY_PAYMENTS, ORIGINAL_ROUTING_KEY: 7}, "wrong_routing_key"),
        ({**BY_PAYMENTS, ORIGINAL_ROUTING_KEY: "é" * 128}, "wrong_routing_key"),
    ],
)
def test_a_copy_counts_only_when_the_event_in_it_would(headers: dict[str, str | int], reason: str) -> None:
    assert verdict(returned(headers=headers)) == reason
    assert verdict(returned("replay", user_id="blue-replay", headers=headers)) == reason


def test_headers_of_a_first_delivery_are_not_believed() -> None:
    claim = first(user_id="blue-inventory", routing_key="inventory.reserved", headers=BY_PAYMENTS)
    assert CHECK.origin(claim) == Origin("blue-inventory", "inventory.reserved")
    assert CHECK.origin(first(user_id=None, headers=BY_PAYMENTS)) == Origin(None, "payment.captured")


@pytest.mark.parametrize("user_id", ["blue-inventory", None])
@pytest.mark.parametrize("exchange", ["", "replay"])
def test_a_forged_message_stays_one_after_any_number_of_retries_and_replays(exchange: str, user_id: str | None) -> None:
    """Each copy is written by a service or operator that is believed; what it was told by the forger is not."""
    claims = {**BY_PAYMENTS, "x-queue": "order_updates", "x-dead-lettered-at": "t", RETRY_COUNT: 1}
    message = first(user_id=user_id, routing_key="inventory.reserved", headers=claims)
    for copied in (retry_copy, dead_letter, retry_copy):
        assert verdict(message) == "wrong_routing_key"
        how: dict[str, Any] = {"queue": "order_updates", "reason": "r", "now": NOW, "origin": CHECK.origin(message)}
        how |= {"delay_seconds": 1} if copied is retry_copy else {"detail": "d"}
        copy = copied(message, **how)
        assert copy.properties.headers.get(ORIGINAL_USER_ID) == user_id
        by = "blue-replay" if exchange else "blue-orders"
        message = returned(exchange, user_id=by, headers=copy.properties.headers)
    assert verdict(message) == "wrong_routing_key"


@pytest.mark.parametrize("exchange", ["", "replay"])
def test_what_the_version_before_left_in_flight_is_accepted_on_request(exchange: str) -> None:
    """Its copies have the routing key, and name no user, neither their own nor the event's."""
    old = returned(exchange, user_id=None, headers={ORIGINAL_ROUTING_KEY: "payment.captured"})
    assert verdict(old) == "missing_user_id"
    assert verdict(old, checking("accept-missing")) == "accepted"
    failed = dead_letter(
        old, origin=CHECK.origin(old), queue="order_updates", reason="missing_user_id", detail="", now=NOW
    )
    replayed = returned("replay", user_id="blue-replay", headers=failed.properties.headers)
    assert verdict(replayed) == "missing_user_id"
    assert verdict(replayed, checking("accept-missing")) == "accepted"


def test_a_mode_that_looks_at_no_user_still_keeps_the_routing_key_through_copies() -> None:
    check = checking("off")
    assert verdict(returned(), check) == "accepted"
    assert verdict(returned(user_id="whoever"), check) == "accepted"
    assert verdict(returned(headers={ORIGINAL_ROUTING_KEY: "inventory.reserved"}), check) == "wrong_routing_key"


def test_a_retry_may_come_back_through_the_exchange_of_a_queue_with_partitions() -> None:
    check = replace(CHECK, copied_through=frozenset({"", "replay", "order_updates"}))
    assert verdict(returned("order_updates"), check) == "accepted"
    assert verdict(returned("order_updates", user_id="blue-replay"), check) == "wrong_routing_key"
    assert verdict(returned("order_updates", user_id="blue-payments"), check) == "wrong_routing_key"
    assert verdict(returned("order_updates"), CHECK) == "wrong_routing_key"
