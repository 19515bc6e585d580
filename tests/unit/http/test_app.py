# SPDX-License-Identifier: Apache-2.0
"""What both APIs share: keys, media types, limits, and a problem document for each error."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from litestar import get, post
from litestar.params import JSONBody
from litestar.testing import TestClient

from orderflow.http.api_keys import ApiKeys, make_key
from orderflow.http.app import application
from orderflow.http.asgi import InstrumentedApplication, Message
from orderflow.http.body import JsonRequest
from orderflow.http.problems import BODY_LIMIT_BYTES
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.errors import BadData

KEY, ENTRY = make_key("shop", frozenset({"orders:write"}))
READER, READER_ENTRY = make_key("auditor", frozenset({"orders:read"}))


class Order(msgspec.Struct):
    quantity: int


@post("/v1/orders", opt={"scope": "orders:write"})
async def place_order(data: JSONBody[Order]) -> int:
    if data.quantity == 500:
        raise RuntimeError("s3cret")
    if data.quantity == 422:
        raise BadData("s3cret")
    return data.quantity


@get("/v1/whoami")
async def who_am_i(request: JsonRequest) -> str:
    return str(request.user.name)


APPLICATION = application(
    [place_order, who_am_i], keys=ApiKeys.parse(f"{ENTRY},{READER_ENTRY}"), title="orders", description="orders"
)


@pytest.fixture
def client() -> Iterator[TestClient[Any]]:
    with TestClient(APPLICATION, raise_server_exceptions=False) as client:
        yield client


def send(client: TestClient[Any], content: Any = b'{"quantity": 1}', *, key: str = KEY, **headers: str) -> Any:
    known = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    return client.post("/v1/orders", content=content, headers=known)


def problem(response: Any) -> tuple[int, str]:
    """Its status and type, after a check that it is a problem document."""
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["title"] and document["detail"]
    return response.status_code, document["type"]


def test_the_user_of_a_request_is_the_holder_of_its_key(client: TestClient[Any]) -> None:
    response = client.get("/v1/whoami", headers={"Authorization": f"Bearer {READER}"})
    assert response.text == "auditor"


def test_an_unknown_key_is_refused_with_a_challenge(client: TestClient[Any]) -> None:
    response = send(client, key="guess")
    assert problem(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert problem(client.get("/v1/whoami")) == (401, "unauthorized")


def test_a_key_without_the_scope_is_refused(client: TestClient[Any]) -> None:
    assert problem(send(client, key=READER)) == (403, "forbidden")


def test_without_keys_every_request_is_allowed() -> None:
    with TestClient(application([place_order], keys=None, title="orders", description="orders")) as client:
        assert send(client, key="guess").status_code == 201


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
def test_a_body_that_is_not_plain_json_is_refused(client: TestClient[Any], headers: dict[str, str]) -> None:
    assert problem(send(client, **headers)) == (415, "unsupported-media-type")


def test_a_charset_beside_the_media_type_is_accepted(client: TestClient[Any]) -> None:
    assert send(client, **{"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 201


@pytest.mark.parametrize("body", [b"", b"{", b'{"quantity": 1}\xff'])
def test_a_body_that_is_not_json_is_a_bad_request(client: TestClient[Any], body: bytes) -> None:
    assert problem(send(client, body)) == (400, "bad-request")


@pytest.mark.parametrize(("body", "field"), [(b'{"quantity": "1"}', "quantity"), (b"{}", "body"), (b"[]", "body")])
def test_a_body_that_does_not_match_names_the_field(client: TestClient[Any], body: bytes, field: str) -> None:
    response = send(client, body)
    assert problem(response) == (422, "invalid")
    (error,) = response.json()["errors"]
    assert error["field"] == field


@pytest.mark.parametrize("number", [b"1.0", b"1e0", b"10e-1"])
def test_a_number_without_a_fraction_is_an_integer(client: TestClient[Any], number: bytes) -> None:
    assert send(client, b'{"quantity": ' + number + b"}").json() == 1


@pytest.mark.parametrize("number", [b"1.5", b"1e999", b"-1e-1", b'"1.0"', b"true", b"[1.0]"])
def test_another_number_is_not_an_integer(client: TestClient[Any], number: bytes) -> None:
    assert problem(send(client, b'{"quantity": ' + number + b"}")) == (422, "invalid")


@pytest.mark.parametrize("start", [b'{"quantity": 1.0, "gift": ', b'{"gift": '])
def test_a_body_that_is_nested_too_deeply_is_a_bad_request(client: TestClient[Any], start: bytes) -> None:
    assert problem(send(client, start + b"[" * 60_000)) == (400, "bad-request")


def test_a_body_above_the_limit_is_refused_also_in_chunks(client: TestClient[Any]) -> None:
    large = b'{"quantity": 1}' + b" " * BODY_LIMIT_BYTES
    assert problem(send(client, large)) == (413, "too-large")
    chunks = (large[start : start + 1000] for start in range(0, len(large), 1000))
    assert problem(send(client, chunks)) == (413, "too-large")


def test_an_unknown_path_and_an_unknown_method_are_problems(client: TestClient[Any]) -> None:
    assert problem(client.get("/nowhere")) == (404, "not-found")
    response = client.delete("/v1/orders")
    assert problem(response) == (405, "method-not-allowed")
    assert "POST" in response.headers["allow"]


def test_a_bug_is_logged_and_its_details_are_not_in_the_response(
    client: TestClient[Any], caplog: pytest.LogCaptureFixture
) -> None:
    response = send(client, b'{"quantity": 500}')
    assert problem(response) == (500, "internal-error")
    assert "s3cret" not in response.text and "Traceback" not in response.text
    (record,) = [record for record in caplog.records if record.name.startswith("orderflow")]
    assert (record.getMessage(), record.levelno) == ("http.failed", logging.ERROR)
    assert record.exc_info is not None and isinstance(record.exc_info[1], RuntimeError)


def test_a_value_that_the_database_refuses_is_invalid_and_logged(
    client: TestClient[Any], caplog: pytest.LogCaptureFixture
) -> None:
    response = send(client, b'{"quantity": 422}')
    assert problem(response) == (422, "invalid")
    assert "s3cret" not in response.text
    assert [record.getMessage() for record in caplog.records if record.name.startswith("orderflow")] == [
        "http.bad_data"
    ]


def asgi(*messages: dict[str, Any], key: str = KEY) -> tuple[list[Any], list[dict[str, Any]]]:
    """A POST with these messages from the client; what was sent, and the messages that were not read."""
    waiting, sent = list(messages), list[Any]()

    async def receive() -> Any:
        return waiting.pop(0)

    async def respond(message: Message) -> None:
        sent.append(message)

    headers = [
        (b"host", b"orders"),
        (b"authorization", f"Bearer {key}".encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"99"),
    ]
    scope = {"type": "http", "method": "POST", "path": "/v1/orders", "headers": headers, "query_string": b""}
    app = InstrumentedApplication(APPLICATION, Instrumentation())
    asyncio.run(app({**scope, "raw_path": b"/v1/orders", "root_path": ""}, receive, respond))
    return sent, waiting


def test_a_client_that_leaves_while_it_sends_its_body_is_reported_as_499(caplog: pytest.LogCaptureFixture) -> None:
    sent, _ = asgi({"type": "http.request", "body": b'{"a":', "more_body": True}, {"type": "http.disconnect"})
    assert sent[0]["status"] == 499
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("key", "status"), [("guess", 401), (READER, 403)], ids=["unknown", "reader"])
def test_a_key_is_checked_before_the_body_is_read(key: str, status: int) -> None:
    sent, unread = asgi({"type": "http.request", "body": b"{}", "more_body": False}, key=key)
    assert (sent[0]["status"], len(unread)) == (status, 1)
