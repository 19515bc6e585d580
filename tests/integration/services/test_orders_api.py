# SPDX-License-Identifier: Apache-2.0
"""The orders API on a real database: one key, one order; every refusal is a problem document."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any
from uuid import uuid4

import pytest

from orderflow.events import OrderCreated, decode
from orderflow.http import api_database
from orderflow.services.orders.idempotency_pruning import PrunedIdempotencyKeys
from orderflow.services.orders.progress import Progress, Step
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.orders_api import KEY, ORDER, OTHER, READER, OrdersApiRig, opened, prepare_offers
from tests.rigs.tcp_proxy import Proxy

pytestmark = pytest.mark.integration


@pytest.fixture
def url(database: str) -> str:
    prepare_offers(database)
    return database


@pytest.fixture
def api(url: str) -> Iterator[OrdersApiRig]:
    with opened(url) as running:
        yield running
        running.database.close()


def assert_problem(response: Any, status: int, kind: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    assert response.json()["type"] == kind
    assert response.json()["status"] == status


def test_an_order_is_accepted_with_its_total_stored_and_published(api: OrdersApiRig) -> None:
    response = api.post({**ORDER, "items": [{"sku": "a", "quantity": 2}, {"sku": "b", "quantity": 1}]})
    assert response.status_code == 202
    body = response.json()
    assert body == {"order_id": body["order_id"], "status": "accepted", "total_amount": 207, "currency": "EUR"}
    (publication,) = api.publisher.published
    event = decode(publication.body)
    assert isinstance(event, OrderCreated)
    assert (str(event.order_id), event.total_amount) == (body["order_id"], 207)
    assert publication.properties.correlation_id == body["order_id"]
    seen = api.get(f"/v1/orders/{body['order_id']}").json()
    assert seen | body == seen
    assert (seen["reason"], seen["final_at"]) == (None, None)
    (step,) = api.get(f"/v1/orders/{body['order_id']}/history").json()
    assert step["status"] == "accepted"


def test_the_same_key_and_body_get_the_same_response_also_after_a_restart(api: OrdersApiRig, url: str) -> None:
    first = api.post(name="once")
    respelled = json.dumps(dict(reversed(ORDER.items())), indent=2).encode()
    assert api.post(respelled, name="once").content == first.content
    with opened(url) as restarted:
        assert restarted.post(name="once").content == first.content
        restarted.database.close()
    assert (api.count("orders"), len(api.publisher.published)) == (1, 1)


def test_the_same_key_with_another_body_is_refused(api: OrdersApiRig) -> None:
    api.post(name="once")
    assert_problem(api.post({**ORDER, "user_id": "v"}, name="once"), 422, "idempotency-key-reused")


def test_a_key_belongs_to_its_client(api: OrdersApiRig) -> None:
    first = api.post(name="once").json()["order_id"]
    assert api.post(name="once", key=OTHER).json()["order_id"] != first


def test_an_order_belongs_to_its_client(api: OrdersApiRig) -> None:
    paths = [f"/v1/orders/{api.post().json()['order_id']}{part}" for part in ("", "/history")]
    for path in paths:
        assert_problem(api.get(path, key=OTHER), 404, "not-found")
        absent = api.get(path.replace(path.split("/")[3], str(uuid4())), key=OTHER)
        assert api.get(path, key=OTHER).content == absent.content, "the response tells that the order exists"
        assert [api.get(path, key=key).status_code for key in (KEY, READER)] == [200, 200]


def test_an_order_without_a_client_is_visible_to_every_client(api: OrdersApiRig) -> None:
    order_id = api.post().json()["order_id"]
    with api.database.transaction() as transaction:
        transaction.execute("update orders set client = null")
    for path in (f"/v1/orders/{order_id}", f"/v1/orders/{order_id}/history"):
        assert api.get(path, key=OTHER).status_code == 200


def test_fifty_concurrent_requests_with_one_key_make_one_order(api: OrdersApiRig) -> None:
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: api.post(name="storm"), range(50)))
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.content for response in responses if response.status_code == 202}) == 1
    for response in responses:
        if response.status_code == 409:
            assert_problem(response, 409, "idempotency-key-in-flight")
            assert response.headers["retry-after"] == "1"
    assert api.count("orders") == 1


def test_two_api_processes_with_one_key_make_one_order(api: OrdersApiRig, url: str) -> None:
    with opened(url) as second, ThreadPoolExecutor(20) as pool:
        places = [api, second] * 10
        responses = list(pool.map(lambda place: place.post(name="race"), places))
        second.database.close()
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.content for response in responses if response.status_code == 202}) == 1
    assert api.count("orders") == 1


@pytest.mark.parametrize(
    ("items", "status", "kind"),
    [
        ([{"sku": "unknown", "quantity": 1}], 422, "unknown-sku"),
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
def test_an_order_that_cannot_be_accepted_is_refused_and_nothing_is_stored(
    api: OrdersApiRig, items: Any, status: int, kind: str
) -> None:
    assert_problem(api.post({**ORDER, "items": items}), status, kind)
    assert (api.count("orders"), api.count("idempotency"), api.publisher.published) == (0, 0, [])


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
def test_a_body_that_does_not_match_is_refused(api: OrdersApiRig, body: Any) -> None:
    assert_problem(api.post(json.dumps(body).encode()), 422, "invalid")


def test_the_field_that_does_not_match_is_named(api: OrdersApiRig) -> None:
    errors = api.post({**ORDER, "items": [{"sku": "a", "quantity": 0}]}).json()["errors"]
    assert errors == [{"field": "items[0].quantity", "message": "Expected `int` >= 1"}]
    errors = api.post({**ORDER, "gift": True}).json()["errors"]
    assert errors == [{"field": "body", "message": "Object contains unknown field `gift`"}]


@pytest.mark.parametrize("start", [b"", b'{"gift": ', b'{"items": ', b'{"user_id": '])
def test_a_body_thousands_deep_does_not_match(api: OrdersApiRig, start: bytes) -> None:
    assert_problem(api.post(start + b"[" * 60_000), 422, "invalid")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"user_id": "\xff"}', b'{"user_id": "\\ud800"}', b"NaN"])
def test_what_is_not_json_is_refused(api: OrdersApiRig, body: bytes) -> None:
    assert_problem(api.post(body), 400, "bad-request")


def test_a_large_body_is_refused_also_without_a_content_length(api: OrdersApiRig) -> None:
    large = json.dumps({**ORDER, "user_id": "x" * 70_000}).encode()
    assert_problem(api.post(large), 413, "too-large")
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "k", "Content-Type": "application/json"}
    chunks = (large[start : start + 1000] for start in range(0, len(large), 1000))
    assert_problem(api.client.post("/v1/orders", content=chunks, headers=headers), 413, "too-large")


@pytest.mark.parametrize("name", ["x" * 256, "two words"])
def test_a_malformed_idempotency_key_is_refused(api: OrdersApiRig, name: str) -> None:
    assert_problem(api.post(name=name), 422, "invalid")


def test_an_order_without_an_idempotency_key_is_refused(api: OrdersApiRig) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = api.client.post("/v1/orders", json=ORDER, headers=headers)
    assert_problem(response, 422, "invalid")
    assert "idempotency-key" in response.json()["detail"].lower()


def test_another_media_type_is_refused(api: OrdersApiRig) -> None:
    response = api.post(b"user_id=u", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert_problem(response, 415, "unsupported-media-type")
    response = api.post(gzip.compress(json.dumps(ORDER).encode()), **{"Content-Encoding": "gzip"})
    assert_problem(response, 415, "unsupported-media-type")


def test_keys_and_scopes_decide_what_a_client_may_do(api: OrdersApiRig) -> None:
    order_id = api.post().json()["order_id"]
    unknown = api.post(key="guess")
    assert_problem(unknown, 401, "unauthorized")
    assert unknown.headers["www-authenticate"] == "Bearer"
    assert_problem(api.client.get(f"/v1/orders/{order_id}"), 401, "unauthorized")
    assert_problem(api.post(key=READER), 403, "forbidden")
    assert api.get(f"/v1/orders/{order_id}", key=READER).status_code == 200


def test_an_absent_resource_is_a_problem_document(api: OrdersApiRig) -> None:
    assert_problem(api.get(f"/v1/orders/{uuid4()}"), 404, "not-found")
    assert_problem(api.get(f"/v1/orders/{uuid4()}/history"), 404, "not-found")
    assert_problem(api.get("/v1/orders/42"), 404, "not-found")
    assert_problem(api.get("/nowhere"), 404, "not-found")
    assert_problem(api.client.delete("/v1/orders"), 405, "method-not-allowed")


def test_orders_are_refused_while_they_would_not_be_decided_in_time(api: OrdersApiRig) -> None:
    api.admission.update(Progress(reservation=Step(age_seconds=12)))
    assert api.post().status_code == 202
    assert_problem(api.client.post("/v1//orders//"), 503, "backlog-too-long")
    response = api.post()
    assert_problem(response, 503, "backlog-too-long")
    assert 7 <= int(response.headers["retry-after"]) <= 14
    assert api.count("orders") == 1
    api.admission.update(Progress())
    assert api.post().status_code == 202


def test_without_a_database_nothing_is_accepted(proxy: Proxy) -> None:
    with opened(proxy.url) as api:
        assert api.post().status_code == 202
        proxy.open = False
        proxy.cut()
        response = api.post(name="later")
        assert_problem(response, 503, "database-unavailable")
        assert int(response.headers["retry-after"]) >= 1
        proxy.open = True
        assert api.post(name="later").status_code == 202


def test_too_many_concurrent_requests_are_asked_to_wait(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_database, "RESPONSE_SECONDS", 60)
    with opened(url, max_waiting=1) as api, ThreadPoolExecutor(3) as pool:
        with api.database.transaction() as transaction:
            transaction.execute("lock table orders in exclusive mode")
            written = pool.submit(api.post)
            wait_for_a_lock(url)
            # The writer is busy until we let go of the table, and one request may wait: of two, one is refused.
            both = [pool.submit(api.post) for _ in range(2)]
            (refused,), (waiting,) = wait(both, timeout=30, return_when=FIRST_COMPLETED)
        assert_problem(refused.result(), 429, "overloaded")
        assert refused.result().headers["retry-after"] == "1"
        assert (written.result(30).status_code, waiting.result(30).status_code) == (202, 202)
        assert api.count("orders") == 2
        api.database.close()


def test_a_pruned_idempotency_key_can_be_used_again(api: OrdersApiRig) -> None:
    first = api.post(name="old").json()["order_id"]
    with api.database.transaction() as transaction:
        transaction.execute("update idempotency set created_at = created_at - interval '73 hours'")
        PrunedIdempotencyKeys(hours=72).prune_page(transaction, "", limit=10)
    assert api.post(name="old").json()["order_id"] != first


def test_the_documentation_page_needs_no_internet(api: OrdersApiRig) -> None:
    page = api.client.get("/docs")
    assert page.status_code == 200
    assert "/v1/orders/{order_id}/history" in page.text
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text
    document = api.client.get("/docs/openapi.json").json()
    assert document["paths"]["/v1/orders"]["post"]["requestBody"]["required"] is True
    assert "Idempotency-Key" in json.dumps(document)
