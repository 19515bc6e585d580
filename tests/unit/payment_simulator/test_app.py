# SPDX-License-Identifier: Apache-2.0
"""The payment simulator over HTTP."""

import asyncio
from collections.abc import Awaitable, Mapping, MutableMapping
from typing import Any

import msgspec
import pytest

from orderflow.payment_simulator.app import SimulatorApplication
from orderflow.payment_simulator.ledger import Ledger
from orderflow.payment_simulator.provider import SimulatedProvider

BODY = {"amount": 1999, "currency": "EUR", "payment_token": "ok", "reference": "order-1"}


class Client:
    """Calls a simulator over ASGI; the response is None when there was none."""

    def __init__(self) -> None:
        self.provider = SimulatedProvider(Ledger())
        self._application = SimulatorApplication(self.provider)

    def call(
        self, method: str, path: str, body: object = None, *, key: str | None = "k1", query: str = ""
    ) -> tuple[int, Mapping[str, Any]] | None:
        messages: list[MutableMapping[str, Any]] = [
            {"type": "http.request", "body": body if isinstance(body, bytes) else msgspec.json.encode(body)},
            {"type": "http.disconnect"},
        ]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return messages.pop(0)

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        headers = [] if key is None else [(b"idempotency-key", key.encode())]
        scope = {"method": method, "path": path, "query_string": query.encode(), "headers": headers}
        run(self._application(scope, receive, send))
        return (sent[0]["status"], msgspec.json.decode(sent[1]["body"])) if sent else None

    def charge(self, token: str, key: str = "k1", **changes: Any) -> int | None:
        """The status of a charge."""
        response = self.call("POST", "/v1/charges", {**BODY, "payment_token": token, **changes}, key=key)
        return response and response[0]


def run(call: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await call

    return asyncio.run(main())


@pytest.mark.parametrize(("token", "status"), [("ok", 200), ("decline", 402), ("what?", 402), ("error_once", 500)])
def test_the_token_decides(token: str, status: int) -> None:
    assert Client().charge(token) == status


def test_the_same_key_gets_the_same_charge_and_another_body_is_refused() -> None:
    client = Client()
    first, second = (client.call("POST", "/v1/charges", BODY) for _ in range(2))
    assert first == second
    assert first is not None
    assert first[1]["status"] == "captured"
    assert client.charge("ok", amount=1) == 422
    assert len(client.provider.ledger.charges) == 1


def test_error_once_charges_at_the_second_call() -> None:
    client = Client()
    assert [client.charge("error_once") for _ in range(3)] == [500, 200, 200]
    assert client.charge("error_once", key="k2", reference="order-2") == 500


@pytest.mark.parametrize(("token", "executed"), [("timeout_executed", 200), ("never", 404)])
def test_a_charge_without_a_response_can_be_looked_up(token: str, executed: int) -> None:
    client = Client()
    assert client.charge(token) is None
    assert client.charge(token) is None
    response = client.call("GET", "/v1/charges", query="key=k1")
    assert response is not None
    assert response[0] == executed
    assert len(client.provider.ledger.charges) == (executed == 200)


def test_a_captured_charge_is_refunded_once() -> None:
    client = Client()
    client.charge("ok")
    charge_id = client.provider.ledger.charges["k1"].charge_id
    body = {"charge_id": charge_id, "amount": 1999}
    assert client.call("POST", "/v1/refunds", body, key="r1") == client.call("POST", "/v1/refunds", body, key="r1")
    assert client.call("POST", "/v1/refunds", body, key="r2") == (409, {"error": "already_refunded"})
    assert client.call("POST", "/v1/refunds", {**body, "amount": 1}, key="r3") == (422, {"error": "wrong_amount"})
    response = client.call("GET", "/v1/ledger")
    assert response is not None
    assert [len(response[1][kind]) for kind in ("charges", "refunds")] == [1, 1]


def test_a_declined_or_unknown_charge_cannot_be_refunded() -> None:
    client = Client()
    client.charge("decline")
    charge_id = client.provider.ledger.charges["k1"].charge_id
    for unknown in (charge_id, "ch_unknown"):
        body = {"charge_id": unknown, "amount": 1999}
        assert client.call("POST", "/v1/refunds", body, key="r1") == (404, {"error": "unknown_charge"})


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [
        (BODY, None, 400),
        (BODY, "", 400),
        (b"{", "k", 400),
        (b'{"currency":"\xff"}', "k", 400),
        ({**BODY, "amount": -1}, "k", 400),
        (b"x" * 20_000, "k", 413),
    ],
)
def test_a_request_that_does_not_match_is_refused(body: object, key: str | None, status: int) -> None:
    client = Client()
    response = client.call("POST", "/v1/charges", body, key=key)
    assert response is not None
    assert response[0] == status
    assert client.provider.ledger.charges == {}


def test_an_unknown_path_is_not_found_and_the_simulator_is_healthy() -> None:
    assert Client().call("GET", "/") == (404, {"error": "unknown_path"})
    assert Client().call("GET", "/healthz") == (200, {"status": "ok"})
