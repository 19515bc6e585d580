# SPDX-License-Identifier: Apache-2.0
"""The orders API on a real database, with a scripted broker."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from orderflow.events import StockChanged
from orderflow.http.api_database import RESPONSE_SECONDS, ApiDatabase
from orderflow.http.api_keys import ApiKeys, make_key
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.group_commit import GroupCommit
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.read_pool import ReadPool
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from orderflow.services.orders import store
from orderflow.services.orders.admission import Admission
from orderflow.services.orders.api import OrdersApi
from orderflow.services.orders.place_orders import PlaceOrders
from tests.builders import a_codec
from tests.rigs.http_server import serving
from tests.rigs.scripted_broker import ScriptedPublisher
from tests.rigs.service_database import service_database

KEY, ENTRY = make_key("shop", frozenset({"orders:write", "orders:read"}))
OTHER, OTHER_ENTRY = make_key("partner", frozenset({"orders:write", "orders:read"}))
READER, READER_ENTRY = make_key("auditor", frozenset({"orders:read", "orders:read-all"}))
KEYS = ApiKeys.parse(",".join((ENTRY, OTHER_ENTRY, READER_ENTRY)))
ORDER: dict[str, Any] = {"user_id": "u", "items": [{"sku": "a", "quantity": 2}], "payment_token": "ok"}
PRICES = {"a": (100, 50, "EUR"), "b": (7, 50, "EUR"), "gone": (5, 0, "EUR"), "dollar": (5, 50, "USD")}


@dataclass(slots=True)
class OrdersApiRig:
    """A running orders API, its database and what it published."""

    client: httpx.Client
    database: Database
    publisher: ScriptedPublisher
    admission: Admission

    def post(self, body: Any = None, *, key: str = KEY, name: str | None = None, **headers: str) -> Any:
        """Place an order under an idempotency key (a new one, unless named)."""
        known = {"Authorization": f"Bearer {key}", "Idempotency-Key": name or str(uuid4()), **headers}
        content = body if isinstance(body, bytes) else json.dumps(ORDER if body is None else body).encode()
        return self.client.post("/v1/orders", content=content, headers={"Content-Type": "application/json", **known})

    def get(self, path: str, key: str = KEY) -> Any:
        """Read a path with an API key."""
        return self.client.get(path, headers={"Authorization": f"Bearer {key}"})

    def count(self, table: str) -> int:
        """The rows of a table."""
        with self.database.transaction() as transaction:
            ((rows,),) = transaction.execute(f"select count(*) from {table}")
        return int(rows)


@contextmanager
def opened(url: str, *, max_waiting: int = 2000) -> Iterator[OrdersApiRig]:
    """An orders API on a database."""
    publisher, clock, instrumentation = ScriptedPublisher(), SystemClock(), Instrumentation()
    outbox = Outbox(publisher, a_codec("orders"), lease_seconds=10)
    place_orders = PlaceOrders(deadline_seconds=60, hold_seconds=120, instrumentation=instrumentation)
    writer = GroupCommit(UnitOfWorkFactory(Database(url), outbox), place_orders, clock=clock, max_waiting=max_waiting)
    reads = ReadPool(url, application_name="orders-api", timeout_seconds=RESPONSE_SECONDS)
    admission = Admission(limit_seconds=10, clock=clock, instrumentation=instrumentation)
    api = OrdersApi(
        database=ApiDatabase(writer, reads),
        keys=KEYS,
        instrumentation=instrumentation,
        admission=admission,
    )
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        with (
            serving(api.app(), early_refusal=api.early_refusal()) as server,
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client,
        ):
            yield OrdersApiRig(client, Database(url), publisher, admission)
    finally:
        writer.stop()
        thread.join()
        reads.close()


def prepare_offers(url: str) -> None:
    """Create the tables and the SKUs that are for sale."""
    events = [
        StockChanged(
            timestamp=datetime.now(UTC),
            sku=sku,
            on_hand=50,
            available=available,
            unit_price=price,
            currency=currency,
            stock_version=1,
        )
        for sku, (price, available, currency) in PRICES.items()
    ]
    with service_database(url, "orders") as setup, setup.transaction() as transaction:
        store.update_availability(SqlUnitOfWork(transaction), events)
