# SPDX-License-Identifier: Apache-2.0
"""Each client has its own limit, and every response says what is left of it."""

from typing import Any

import pytest
from litestar import get
from litestar.testing import TestClient

from orderflow.http.api_keys import ApiKeys, make_key
from orderflow.http.app import application
from orderflow.http.asgi import InstrumentedApplication
from orderflow.http.problems import Problem
from orderflow.http.rate_limit import RateLimit
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import ManualClock

KEY, ENTRY = make_key("shop", frozenset({"orders:read"}))
OTHER, OTHER_ENTRY = make_key("partner", frozenset({"orders:read"}))


class Limited(Instrumentation):
    """Keeps the clients whose requests were refused."""

    def __init__(self) -> None:
        self.clients: list[str] = []

    def rate_limited(self, client: str) -> None:
        self.clients.append(client)


class LimitedApi:
    """An API with a limit of two requests per second and four at once."""

    def __init__(self) -> None:
        self.clock, self.report = ManualClock(), Limited()
        limit = RateLimit(per_second=2, burst=4, clock=self.clock, instrumentation=self.report)
        app = application(
            [ping, stock], keys=ApiKeys.parse(f"{ENTRY},{OTHER_ENTRY}"), title="t", description="d", rate_limit=limit
        )
        self.client: Any = TestClient(InstrumentedApplication(app, Instrumentation()))

    def get(self, key: str = KEY, path: str = "/ping") -> Any:
        return self.client.get(path, headers={"Authorization": f"Bearer {key}"})


@get("/ping")
async def ping() -> str:
    return "pong"


@get("/stock", opt={"scope": "stock:read"})
async def stock() -> str:
    return "stock"


@pytest.fixture
def api() -> LimitedApi:
    return LimitedApi()


def test_a_request_above_the_limit_is_refused_until_the_time_that_its_response_says(api: LimitedApi) -> None:
    assert [api.get().status_code for _ in range(4)] == [200] * 4
    refused = api.get()
    assert (refused.status_code, refused.json()["type"]) == (429, "quota-exceeded")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["ratelimit"] == '"default";r=0;t=1'
    assert api.report.clients == ["shop"]
    api.clock.advance(1)
    assert [api.get().status_code for _ in range(3)] == [200, 200, 429]


def test_every_response_says_what_is_left(api: LimitedApi) -> None:
    seen = [api.get().headers["ratelimit"] for _ in range(4)]
    assert seen == ['"default";r=3;t=1', '"default";r=2;t=1', '"default";r=1;t=2', '"default";r=0;t=2']
    api.clock.advance(60)
    response = api.get()
    assert response.headers["ratelimit"] == '"default";r=3;t=1'
    assert response.headers["ratelimit-policy"] == '"default";q=4;w=2'


def test_a_forbidden_request_counts_too(api: LimitedApi) -> None:
    response = api.get(path="/stock")
    assert (response.status_code, response.headers["ratelimit"]) == (403, '"default";r=3;t=1')


def test_clients_do_not_share_a_limit_and_strangers_have_none(api: LimitedApi) -> None:
    for _ in range(5):
        api.get()
    assert api.get(OTHER).status_code == 200
    for _ in range(10):
        unknown = api.get("guess")
        assert unknown.status_code == 401 and "ratelimit" not in unknown.headers


def test_refused_requests_do_not_postpone_the_next_one() -> None:
    clock = ManualClock()
    limit = RateLimit(per_second=0.1, burst=1, clock=clock, instrumentation=Instrumentation())
    limit.take("shop", {})
    for _ in range(9):
        clock.advance(1)
        with pytest.raises(Problem):
            limit.take("shop", {})
    clock.advance(1.001)
    limit.take("shop", {})
