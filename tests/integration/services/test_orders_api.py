# SPDX-License-Identifier: Apache-2.0
"""The orders API on a real database: one key, one order; every refusal is a problem document."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from orderflow.events import OrderCreated, decode
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.services.orders import store
from tests.rigs.orders_api import KEY, ORDER, OTHER, READER, Shop, opened, prepare_offers
from tests.rigs.tcp_proxy import Proxy

pytestmark = pytest.mark.integration


@pytest.fixture
def prepared(database: str) -> str:
    prepare_offers(database)
    return database


@pytest.fixture
def shop(prepared: str) -> Iterator[Shop]:
    with opened(prepared) as running:
        yield running
        running.database.close()


def assert_problem(answer: Any, status: int, kind: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["type"] == kind
    assert answer.json()["status"] == status


def test_an_order_is_accepted_with_its_total_stored_and_told(shop: Shop) -> None:
    answer = shop.post({**ORDER, "items": [{"sku": "a", "quantity": 2}, {"sku": "b", "quantity": 1}]})
    assert answer.status_code == 202
    body = answer.json()
    assert body == {"order_id": body["order_id"], "status": "accepted", "total_amount": 207, "currency": "EUR"}
    (publication,) = shop.publisher.published
    event = decode(publication.body)
    assert isinstance(event, OrderCreated)
    assert (str(event.order_id), event.total_amount) == (body["order_id"], 207)
    assert publication.properties.correlation_id == body["order_id"]
    seen = shop.get(f"/v1/orders/{body['order_id']}").json()
    assert seen | body == seen
    assert (seen["reason"], seen["final_at"]) == (None, None)
    (step,) = shop.get(f"/v1/orders/{body['order_id']}/history").json()
    assert step["status"] == "accepted"


def test_the_same_key_and_body_get_the_same_answer_also_after_a_restart(shop: Shop, prepared: str) -> None:
    first = shop.post(name="once")
    respelled = json.dumps(dict(reversed(ORDER.items())), indent=2).encode()
    assert shop.post(respelled, name="once").content == first.content
    with opened(prepared) as restarted:
        assert restarted.post(name="once").content == first.content
        restarted.database.close()
    assert (shop.count("orders"), len(shop.publisher.published)) == (1, 1)


def test_the_same_key_with_another_body_is_refused(shop: Shop) -> None:
    shop.post(name="once")
    assert_problem(shop.post({**ORDER, "user_id": "v"}, name="once"), 422, "idempotency-key-reused")


def test_a_key_belongs_to_its_client(shop: Shop) -> None:
    first = shop.post(name="once").json()["order_id"]
    assert shop.post(name="once", key=OTHER).json()["order_id"] != first


def test_fifty_requests_at_once_with_one_key_make_one_order(shop: Shop) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: shop.post(name="storm"), range(50)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.content for answer in answers if answer.status_code == 202}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert_problem(answer, 409, "idempotency-key-in-flight")
            assert answer.headers["retry-after"] == "1"
    assert shop.count("orders") == 1


def test_two_api_processes_with_one_key_make_one_order(shop: Shop, prepared: str) -> None:
    with opened(prepared) as second, ThreadPoolExecutor(20) as pool:
        places = [shop, second] * 10
        answers = list(pool.map(lambda place: place.post(name="race"), places))
        second.database.close()
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.content for answer in answers if answer.status_code == 202}) == 1
    assert shop.count("orders") == 1


@pytest.mark.parametrize(
    ("items", "status", "kind"),
    [
        ([{"sku": "nobody", "quantity": 1}], 422, "unknown-sku"),
        ([{"sku": "gone", "quantity": 1}], 409, "sold-out"),
        ([{"sku": "a", "quantity": 30}, {"sku": "a", "quantity": 30}], 409, "sold-out"),
        ([{"sku": "a", "quantity": 1}, {"sku": "dollar", "quantity": 1}], 422, "mixed-currencies"),
        ([], 422, "invalid"),
        ([{"sku": "a", "quantity": 1}] * 101, 422, "invalid"),
        ([{"sku": "a", "quantity": 0}], 422, "invalid"),
        ([{"sku": "a", "quantity": 1, "gift": True}], 422, "invalid"),
        ([{"sku": "../a", "quantity": 1}], 422, "invalid"),
        ([{"sku": "a", "quantity": 1.5}], 422, "invalid"),
        ([{"sku": "a", "quantity": "1"}], 422, "invalid"),
        ([{"sku": "a", "quantity": True}], 422, "invalid"),
        ("a", 422, "invalid"),
    ],
)
def test_an_order_that_cannot_be_is_refused_and_nothing_is_stored(
    shop: Shop, items: Any, status: int, kind: str
) -> None:
    assert_problem(shop.post({**ORDER, "items": items}), status, kind)
    assert (shop.count("orders"), shop.count("idempotency"), shop.publisher.published) == (0, 0, [])


@pytest.mark.parametrize(
    "body",
    [
        {**ORDER, "discount": 5},
        {key: value for key, value in ORDER.items() if key != "user_id"},
        {**ORDER, "user_id": ""},
        {**ORDER, "user_id": "a\u0000b"},
        {**ORDER, "user_id": "x" * 65},
        {**ORDER, "payment_token": 7},
        [ORDER],
        None,
    ],
)
def test_a_body_that_does_not_fit_is_refused(shop: Shop, body: Any) -> None:
    assert_problem(shop.post(json.dumps(body).encode()), 422, "invalid")


def test_what_does_not_fit_is_named(shop: Shop) -> None:
    errors = shop.post({**ORDER, "items": [{"sku": "a", "quantity": 0}]}).json()["errors"]
    assert errors == [{"field": "items[0].quantity", "message": "Expected `int` >= 1"}]
    errors = shop.post({**ORDER, "gift": True}).json()["errors"]
    assert errors == [{"field": "body", "message": "Object contains unknown field `gift`"}]


@pytest.mark.parametrize("start", [b"", b'{"gift": ', b'{"items": ', b'{"user_id": '])
def test_a_body_thousands_deep_does_not_fit(shop: Shop, start: bytes) -> None:
    assert_problem(shop.post(start + b"[" * 60_000), 422, "invalid")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"user_id": "\xff"}', b'{"user_id": "\\ud800"}', b"NaN"])
def test_what_is_not_json_is_refused(shop: Shop, body: bytes) -> None:
    assert_problem(shop.post(body), 400, "bad-request")


def test_a_large_body_is_refused_also_when_it_does_not_tell_its_size(shop: Shop) -> None:
    large = json.dumps({**ORDER, "user_id": "x" * 70_000}).encode()
    assert_problem(shop.post(large), 413, "too-large")
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "k", "Content-Type": "application/json"}
    chunks = (large[start : start + 1000] for start in range(0, len(large), 1000))
    assert_problem(shop.client.post("/v1/orders", content=chunks, headers=headers), 413, "too-large")


@pytest.mark.parametrize("name", ["x" * 256, "two words"])
def test_an_idempotency_key_that_is_none_is_refused(shop: Shop, name: str) -> None:
    assert_problem(shop.post(name=name), 422, "invalid")


def test_without_an_idempotency_key_nothing_is_ordered(shop: Shop) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = shop.client.post("/v1/orders", json=ORDER, headers=headers)
    assert_problem(answer, 422, "invalid")
    assert "idempotency-key" in answer.json()["detail"].lower()


def test_another_media_type_is_refused(shop: Shop) -> None:
    answer = shop.post(b"user_id=u", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert_problem(answer, 415, "unsupported-media-type")
    answer = shop.post(gzip.compress(json.dumps(ORDER).encode()), **{"Content-Encoding": "gzip"})
    assert_problem(answer, 415, "unsupported-media-type")


def test_keys_and_scopes_decide_who_may_do_what(shop: Shop) -> None:
    order_id = shop.post().json()["order_id"]
    unknown = shop.post(key="guess")
    assert_problem(unknown, 401, "unauthorized")
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert_problem(shop.client.get(f"/v1/orders/{order_id}"), 401, "unauthorized")
    assert_problem(shop.post(key=READER), 403, "forbidden")
    assert shop.get(f"/v1/orders/{order_id}", key=READER).status_code == 200


def test_what_is_not_there_is_a_problem_document_too(shop: Shop) -> None:
    assert_problem(shop.get(f"/v1/orders/{uuid4()}"), 404, "not-found")
    assert_problem(shop.get(f"/v1/orders/{uuid4()}/history"), 404, "not-found")
    assert_problem(shop.get("/v1/orders/42"), 404, "not-found")
    assert_problem(shop.get("/nowhere"), 404, "not-found")
    assert_problem(shop.client.delete("/v1/orders"), 405, "method-not-allowed")


def test_orders_are_refused_while_they_cannot_be_passed_on(shop: Shop) -> None:
    shop.age[0] = 31.0
    answer = shop.post()
    assert_problem(answer, 503, "outbox-too-old")
    assert answer.headers["retry-after"] == "5"
    assert shop.count("orders") == 0


def test_without_a_database_nothing_is_accepted(prepared: str) -> None:
    with Proxy(prepared) as proxy, opened(proxy.url) as shop:
        assert shop.post().status_code == 202
        proxy.open = False
        proxy.cut()
        answer = shop.post(name="later")
        assert_problem(answer, 503, "database-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        proxy.open = True
        assert shop.post(name="later").status_code == 202


def test_too_many_requests_at_once_are_told_to_wait(prepared: str) -> None:
    with opened(prepared, most_waiting=1) as shop, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: shop.post(), range(40)))
        shop.database.close()
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {202, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert_problem(answer, 429, "overloaded")
            assert answer.headers["retry-after"] == "1"
    assert 202 in statuses


def test_forgotten_answers_let_a_key_be_used_again(shop: Shop) -> None:
    first = shop.post(name="old").json()["order_id"]
    with shop.database.transaction() as transaction:
        transaction.execute("update idempotency set created_at = created_at - interval '73 hours'")
        store.prune_idempotency_keys(SqlUnitOfWork(transaction), hours=72)
    assert shop.post(name="old").json()["order_id"] != first


def test_the_page_of_documentation_needs_no_internet(shop: Shop) -> None:
    page = shop.client.get("/docs")
    assert page.status_code == 200
    assert "/v1/orders/{order_id}/history" in page.text
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text
    document = shop.client.get("/docs/openapi.json").json()
    assert document["paths"]["/v1/orders"]["post"]["requestBody"]["required"] is True
    assert "Idempotency-Key" in json.dumps(document)
