# SPDX-License-Identifier: Apache-2.0
"""The orders API without a database: refused orders are counted by reason."""

import json
from concurrent.futures import Future
from typing import Any

import pytest
from litestar.testing import TestClient

from orderflow.http.api_database import ApiDatabase
from orderflow.http.api_keys import ApiKeys, make_key
from orderflow.http.rate_limit import RateLimit
from orderflow.instrumentation import REFUSALS, Instrumentation
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.group_commit import Overloaded
from orderflow.services.orders.admission import Admission
from orderflow.services.orders.api import OrdersApi
from orderflow.services.orders.place_orders import Placed, Refused
from orderflow.services.orders.progress import Progress, Step
from tests.rigs.http_server import serving

KEY, ENTRY = make_key("shop", frozenset({"orders:write"}))
READER, READER_ENTRY = make_key("auditor", frozenset({"orders:read"}))
ORDER = b'{"user_id": "u", "items": [{"sku": "a", "quantity": 1}], "payment_token": "ok"}'


class Refusals(Instrumentation):
    """Records the reasons of refused orders."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)


class Writer:
    """A writer with one result, or error, for every request."""

    def __init__(self, result: object) -> None:
        self.result = result

    def submit(self, _request: Any, /) -> Future[Any]:
        future: Future[Any] = Future()
        if isinstance(self.result, Overloaded):
            raise self.result
        if isinstance(self.result, Exception):
            future.set_exception(self.result)
        else:
            future.set_result(self.result)
        return future

    def withdraw(self, _future: Future[Any], /) -> bool:
        return True


def an_api(result: object, instrumentation: Instrumentation, rate_limit: RateLimit | None = None) -> OrdersApi:
    """An API on a writer with this result."""
    return OrdersApi(
        database=ApiDatabase(Writer(result), Writer(None)),
        keys=ApiKeys.parse(f"{ENTRY},{READER_ENTRY}"),
        instrumentation=instrumentation,
        admission=Admission(limit_seconds=10, clock=ManualClock(), instrumentation=Instrumentation()),
        rate_limit=rate_limit,
    )


def post(
    result: object = None,
    body: bytes = ORDER,
    *,
    key: str = KEY,
    rate_limit: RateLimit | None = None,
    **headers: str,
) -> tuple[int, list[str]]:
    """The status of an order, and the reasons that were counted."""
    refusals = Refusals()
    api = an_api(result, refusals, rate_limit)
    known = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Idempotency-Key": "k", **headers}
    with TestClient(api.app(), raise_server_exceptions=False) as client:
        status = client.post("/v1/orders", content=body, headers=known).status_code
        client.get("/v1/orders/1", headers=known)
        client.post("/v1/order", content=body, headers=known)
    return status, refusals.reasons


def test_an_accepted_order_and_other_requests_are_not_refusals() -> None:
    assert post(Placed(b"{}")) == (202, [])


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ({"key": "guess"}, 401, "unauthorized"),
        ({"key": READER}, 403, "forbidden"),
        ({"Content-Type": "text/plain"}, 415, "invalid"),
        ({"body": b"{"}, 400, "invalid"),
        ({"body": b"{}"}, 422, "invalid"),
        ({"Idempotency-Key": "two words"}, 422, "invalid"),
        ({"body": b" " * 70_000}, 413, "too_large"),
        ({"result": Overloaded("full")}, 429, "overloaded"),
        ({"result": DatabaseUnavailable("gone")}, 503, "database_unavailable"),
        ({"result": Refused("unknown_sku", "")}, 422, "unknown_sku"),
        ({"result": Refused("sold_out", "")}, 409, "sold_out"),
        ({"result": Refused("mixed_currencies", "")}, 422, "mixed_currencies"),
        ({"result": Refused("idempotency_key_reused", "")}, 422, "idempotency_key_reused"),
        ({"result": Refused("invalid", "the total is too large")}, 422, "invalid"),
    ],
)
def test_a_refused_order_is_counted_by_its_reason(arguments: dict[str, Any], status: int, reason: str) -> None:
    assert post(**arguments) == (status, [reason])
    assert reason in REFUSALS


@pytest.mark.parametrize(
    ("progress", "reason"),
    [
        (Progress(reservation=Step(age_seconds=11)), "reservations_delayed"),
        (Progress(payment=Step(age_seconds=11)), "payments_delayed"),
        (Progress(reservation=Step(age_seconds=2, waiting=1100, per_second=100)), "backlog_too_long"),
    ],
)
def test_an_order_that_would_not_be_decided_in_time_is_counted_by_its_cause(progress: Progress, reason: str) -> None:
    refusals = Refusals()
    api = an_api(Placed(b"{}"), refusals)
    api.admission.update(progress)
    order = b"POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(ORDER), ORDER)
    with serving(api.app(), early_refusal=api.early_refusal()) as server:
        status, body = server.send(order)
        assert server.send(order.replace(b"orders", b"order"))[0] == 404
    assert (status, json.loads(body)["type"]) == (503, "backlog-too-long")
    assert refusals.reasons == [reason]
    assert reason in REFUSALS


def test_an_order_above_the_rate_limit_of_its_client_is_a_refusal() -> None:
    limit = RateLimit(per_second=1, burst=1, clock=ManualClock(), instrumentation=Instrumentation())
    limit.take("shop", {})
    assert post(rate_limit=limit) == (429, ["quota_exceeded"])
    assert "quota_exceeded" in REFUSALS


def test_a_bug_is_not_a_refusal() -> None:
    assert post(RuntimeError("bug")) == (500, [])
