# SPDX-License-Identifier: Apache-2.0
"""The stock API on a real database."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from litestar.testing import TestClient

from local.eventually import eventually
from orderflow.events import StockChanged, decode
from orderflow.http.api_database import RESPONSE_SECONDS, ApiDatabase
from orderflow.http.api_keys import ApiKeys, make_key
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.group_commit import GroupCommit
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.read_pool import ReadPool
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.services.inventory.api import StockApi
from orderflow.services.inventory.set_stock import SetStock
from tests.builders import a_codec
from tests.rigs.scripted_broker import ScriptedPublisher

pytestmark = pytest.mark.integration

KEY, ENTRY = make_key("warehouse", frozenset({"stock:write", "stock:read"}))
READER, READER_ENTRY = make_key("auditor", frozenset({"stock:read"}))
STOCK = {"on_hand": 10, "unit_price": 1999, "currency": "EUR"}

LOW = 10


class StockMoves(Instrumentation):
    """Keeps how many units were added."""

    def __init__(self) -> None:
        self.put: list[int] = []

    def stock_moved(self, move: str, units: int) -> None:
        assert move == "put"
        self.put.append(units)


class StockApiRig:
    """A running stock API, its database and what it published."""

    def __init__(
        self, client: TestClient[Any], publisher: ScriptedPublisher, database: Database, moves: StockMoves
    ) -> None:
        self.client, self.publisher, self.database, self.moves = client, publisher, database, moves

    def put(self, sku: str, body: Any, key: str = KEY, **headers: str) -> Any:
        known = {"Authorization": f"Bearer {key}", **headers}
        return self.client.put(f"/v1/stock/{sku}", json=body, headers=known)

    def get(self, sku: str, key: str = KEY) -> Any:
        return self.client.get(f"/v1/stock/{sku}", headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def api(inventory: Database, database: str) -> Iterator[StockApiRig]:
    publisher, instrumentation = ScriptedPublisher(), StockMoves()
    outbox = Outbox(publisher, a_codec("inventory"), lease_seconds=10)
    writer = GroupCommit(
        UnitOfWorkFactory(Database(database), outbox),
        SetStock(low_units=LOW, instrumentation=instrumentation),
        clock=SystemClock(),
    )
    reads = ReadPool(database, application_name="inventory-api", timeout_seconds=RESPONSE_SECONDS)
    application = StockApi(database=ApiDatabase(writer, reads), keys=ApiKeys.parse(f"{ENTRY},{READER_ENTRY}")).app()
    thread = threading.Thread(target=writer.run)
    thread.start()
    with TestClient(application) as client:
        yield StockApiRig(client, publisher, inventory, instrumentation)
    writer.stop()
    thread.join()
    reads.close()


def test_stock_is_set_published_and_read(api: StockApiRig) -> None:
    wanted = {"sku": "a", **STOCK, "available": 10, "reserved": 0, "sold": 0}
    assert api.put("a", STOCK).json() == wanted
    assert api.get("a").json() == wanted
    (publication,) = api.publisher.published
    event = decode(publication.body)
    assert isinstance(event, StockChanged)
    assert (event.sku, event.available, event.stock_version) == ("a", 10, 1)


def test_a_fall_to_the_low_mark_is_published_once_and_units_are_counted_by_their_change(api: StockApiRig) -> None:
    for on_hand, price in ((100, 5), (100, 6), (10, 6), (3, 6), (50, 6), (9, 6)):
        assert api.put("a", {**STOCK, "on_hand": on_hand, "unit_price": price}).status_code == 200
    eventually(lambda: len(api.publisher.published) == 6)
    types = [publication.properties.type for publication in api.publisher.published]
    changed, low = "STOCK_CHANGED", "STOCK_LOW"
    assert types == [changed, changed, low, changed, changed, low]
    assert api.moves.put == [100, 0, -90, -7, 47, -41]


def test_stock_cannot_be_set_below_what_is_reserved_and_sold(api: StockApiRig) -> None:
    api.put("a", STOCK)
    with api.database.transaction() as transaction:
        transaction.execute("update stock set available = 3, reserved = 5, sold = 2")
    refused = api.put("a", {**STOCK, "on_hand": 6})
    assert (refused.status_code, refused.json()["type"]) == (409, "too-few")
    assert api.get("a").json()["on_hand"] == 10
    lowered = api.put("a", {**STOCK, "on_hand": 7}).json()
    assert (lowered["available"], lowered["reserved"], lowered["sold"]) == (0, 5, 2)


def test_a_change_that_its_author_has_not_seen_is_not_overwritten(api: StockApiRig) -> None:
    seen = api.put("a", STOCK).headers["etag"]
    assert api.get("a").headers["etag"] == seen
    assert api.put("a", {**STOCK, "on_hand": 11}, **{"If-Match": f'"0", {seen}'}).status_code == 200
    refused = api.put("a", {**STOCK, "on_hand": 12}, **{"If-Match": seen})
    assert (refused.status_code, refused.json()["type"]) == (412, "precondition-failed")
    assert (api.get("a").json()["on_hand"], len(api.publisher.published)) == (11, 2)
    assert api.put("a", {**STOCK, "on_hand": 12}, **{"If-Match": api.get("a").headers["etag"]}).status_code == 200


def test_one_of_two_changes_of_the_same_stock_is_refused(api: StockApiRig) -> None:
    seen = api.put("a", STOCK).headers["etag"]
    with ThreadPoolExecutor(10) as pool:
        changes = [{**STOCK, "on_hand": 20 + number} for number in range(10)]
        statuses = [
            response.status_code
            for response in pool.map(lambda body: api.put("a", body, **{"If-Match": seen}), changes)
        ]
    assert sorted(statuses) == [200] + [412] * 9


def test_a_sku_is_created_once_and_only_a_known_one_is_changed(api: StockApiRig) -> None:
    for condition in ({"If-Match": "*"}, {"If-Match": '"0"'}, {"If-Match": 'W/"1"'}):
        assert api.put("a", STOCK, **condition).status_code == 412
        assert api.get("a").status_code == 404
    with ThreadPoolExecutor(10) as pool:
        created = list(pool.map(lambda _: api.put("a", STOCK, **{"If-None-Match": "*"}).status_code, range(10)))
    assert sorted(created) == [200] + [412] * 9
    assert api.put("a", STOCK, **{"If-Match": "*"}).status_code == 200
    assert api.put("a", STOCK, **{"If-Match": 'W/"2"'}).status_code == 412
    assert api.put("a", STOCK, **{"If-Match": '"2"', "If-None-Match": "*"}).status_code == 412


@pytest.mark.parametrize("headers", [{"If-Match": "2"}, {"If-Match": '"2'}, {"If-None-Match": '"2"'}])
def test_a_malformed_condition_is_refused(api: StockApiRig, headers: dict[str, str]) -> None:
    assert api.put("a", STOCK, **headers).status_code == 422


@pytest.mark.parametrize(
    "change",
    [{"on_hand": -1}, {"on_hand": 2**31}, {"unit_price": 1.5}, {"currency": "euro"}, {"colour": "red"}],
)
def test_a_body_that_does_not_match_is_refused(api: StockApiRig, change: dict[str, Any]) -> None:
    response = api.put("a", {**STOCK, **change})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


def test_keys_and_scopes_decide_what_a_client_may_do(api: StockApiRig) -> None:
    assert api.put("a", STOCK, key="guess").status_code == 401
    assert api.put("a", STOCK, key=READER).status_code == 403
    api.put("a", STOCK)
    assert api.get("a", key=READER).status_code == 200


def test_an_unknown_or_impossible_sku_is_a_problem_document(api: StockApiRig) -> None:
    assert (api.get("none").status_code, api.get("none").json()["type"]) == (404, "not-found")
    assert api.put("x" * 65, STOCK).status_code == 422
