# SPDX-License-Identifier: Apache-2.0
"""An order that was answered with 503 is not stored later; one whose outcome is unknown is answered with 504."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from local.eventually import eventually
from orderflow.http import api_database
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.orders_api import OrdersApiRig, opened, prepare_offers
from tests.rigs.tcp_proxy import COMMITTED, Proxy

pytestmark = pytest.mark.integration


@pytest.fixture
def url(database: str) -> str:
    prepare_offers(database)
    return database


@pytest.fixture
def api(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[OrdersApiRig]:
    monkeypatch.setattr(api_database, "RESPONSE_SECONDS", 0.5)
    monkeypatch.setattr(api_database, "COMMIT_SECONDS", 0.5)
    with opened(proxy.url) as api:
        yield api


def problem(response: object) -> tuple[int, str]:
    return response.status_code, response.json()["type"]  # type: ignore[attr-defined]


def test_an_order_that_waits_for_a_lock_or_for_the_writer_and_is_given_up_is_never_stored(
    api: OrdersApiRig, url: str
) -> None:
    with ThreadPoolExecutor(2) as pool:
        with api.database.transaction() as transaction:
            transaction.execute("lock table orders in exclusive mode")
            applied = pool.submit(api.post, name="applied")
            wait_for_a_lock(url)
            waiting = pool.submit(api.post, name="waiting")
            assert {problem(applied.result(20)), problem(waiting.result(20))} == {(503, "database-unavailable")}
        # The writer works in the order of the requests, so what it stores of the earlier ones is stored now.
        while api.post(name="later").status_code != 202:
            pass
    assert (api.count("orders"), api.count("outbox")) == (1, 1)


@pytest.mark.parametrize("lost", ["commit", "response"])
def test_an_order_whose_commit_is_in_doubt_is_answered_with_504_and_stored_once(
    api: OrdersApiRig, proxy: Proxy, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_database, "RESPONSE_SECONDS", 10)  # the COMMIT begins within that also on a busy machine
    if lost == "commit":
        proxy.swallows_commits = True
    else:
        proxy.swallow = COMMITTED
    assert problem(api.post(name="in-doubt")) == (504, "outcome-unknown")
    proxy.swallows_commits = False
    proxy.cut()
    eventually(lambda: api.post(name="in-doubt").status_code == 202, seconds=60, what="the database is back")
    order = api.post(name="in-doubt").json()["order_id"]
    assert api.get(f"/v1/orders/{order}").status_code == 200
    assert (api.post(name="in-doubt").json()["order_id"], api.count("orders")) == (order, 1)
