# SPDX-License-Identifier: Apache-2.0
"""An event whose row may be deleted is rejected: nothing is reserved, charged or sent, whatever the setting is now."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from orderflow.events import InventoryReserved, OrderCancelled, OrderConfirmed, OrderCreated, StockLow
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.retention import EVENT_TOO_OLD, RecentEvents
from orderflow.messaging.service import DONE, Handler, Incoming, Outcome, UnitOfWork
from orderflow.services.inventory import stock_retention
from orderflow.services.inventory.handlers import InventoryUpdates
from orderflow.services.notifications import notification_retention
from orderflow.services.notifications.handlers import NotificationRequests
from orderflow.services.payments import charge_retention
from orderflow.services.payments.handlers import PaymentRequests
from tests.builders import an_event
from tests.rigs.consumer import one
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)
Wrap = Callable[..., Handler]
CASES: dict[str, tuple[Wrap, Handler, tuple[type[Event], ...], str, str]] = {
    "inventory": (
        stock_retention.recent_events,
        InventoryUpdates(low_units=1, instrumentation=Instrumentation()),
        (OrderCreated, OrderCancelled),
        "reservations",
        "insert into retired_reservations values ('sold', 1, %(before)s)",
    ),
    "payments": (
        charge_retention.recent_events,
        PaymentRequests(lambda: None, instrumentation=Instrumentation()),
        (InventoryReserved, OrderCancelled),
        "charges",
        "insert into retired_charges values ('captured', 'EUR', 1, 1, %(before)s)",
    ),
    "notifications": (
        notification_retention.recent_events,
        NotificationRequests(lambda: None),
        (OrderConfirmed, StockLow),
        "notifications",
        "insert into retired_notifications values ('order_confirmed', 'sent', 1, %(before)s)",
    ),
}


@pytest.fixture(params=CASES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_of_service(database: str, service: str) -> Iterator[Database]:
    prepare_service(database, service)
    opened = Database(database)
    yield opened
    opened.close()


def handled(database: Database, handler: Handler, events: Sequence[Event]) -> list[Outcome]:
    with database.transaction() as transaction:
        messages = [Incoming(uuid4(), event, 0) for event in events]
        return list(handler.handle(messages, SqlUnitOfWork(transaction)))


def events_of(service: str, *, days_ago: float) -> list[Event]:
    _, _, kinds, _, _ = CASES[service]
    return [an_event(kind, timestamp=NOW - timedelta(days=days_ago)) for kind in kinds]


def deleted_before(url: str, service: str, *, days_ago: float) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(CASES[service][4].encode(), {"before": NOW - timedelta(days=days_ago)})


def test_events_older_than_the_retention_do_nothing(database: str, database_of_service: Database, service: str) -> None:
    wrap, handler, kinds, table, _ = CASES[service]
    old, recent = events_of(service, days_ago=730), events_of(service, days_ago=30)
    outcomes = handled(database_of_service, wrap(handler, retention_days=60), [old[0], *recent, old[1]])
    assert [outcome is EVENT_TOO_OLD for outcome in outcomes] == [True, False, False, True]
    assert one(database, f"select count(*) from {table}") == len(kinds)
    assert one(database, "select count(*) from outbox") == 0


@pytest.mark.parametrize("days_now", [0, 900])
def test_what_was_deleted_once_is_not_done_again_when_the_retention_is_longer_now_or_off(
    database: str, database_of_service: Database, service: str, days_now: int
) -> None:
    wrap, handler, _, table, _ = CASES[service]
    deleted_before(database, service, days_ago=400)
    now = wrap(handler, retention_days=days_now)
    outcomes = handled(database_of_service, now, events_of(service, days_ago=399.5))
    assert (outcomes, one(database, f"select count(*) from {table}")) == ([EVENT_TOO_OLD] * 2, 0)
    outcomes = handled(database_of_service, now, events_of(service, days_ago=398.5))
    assert EVENT_TOO_OLD not in outcomes
    assert one(database, f"select count(*) from {table}") == 2


@pytest.mark.parametrize("service", ["inventory", "payments"], indirect=True)
def test_an_old_event_of_an_order_whose_row_is_still_there_is_handled(
    database: str, database_of_service: Database, service: str
) -> None:
    wrap, handler, (first, _), table, _ = CASES[service]
    if service == "inventory":
        with psycopg.connect(database) as connection:
            connection.execute("insert into stock values ('sku-1', 10, 10, 0, 0, 1999, 'EUR', 1)")
    order = an_event(OrderConfirmed).order_id
    handled(database_of_service, handler, [an_event(first, order_id=order)])
    deleted_before(database, service, days_ago=1)
    cancelled = an_event(OrderCancelled, order_id=order)
    outcomes = handled(database_of_service, wrap(handler, retention_days=60), [an_event(OrderCancelled), cancelled])
    assert outcomes == [EVENT_TOO_OLD, DONE]
    assert one(database, f"select string_agg(state, ' ') from {table}") in {"released", "cancelled"}


def test_without_a_retention_old_events_are_handled(database: str, database_of_service: Database, service: str) -> None:
    wrap, handler, _, table, _ = CASES[service]
    outcomes = handled(database_of_service, wrap(handler, retention_days=0), events_of(service, days_ago=730))
    assert EVENT_TOO_OLD not in outcomes
    assert one(database, f"select count(*) from {table}") == 2


class NoHandler:
    """Does nothing."""

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        _ = unit_of_work
        return [DONE] * len(messages)


def test_recent_events_cost_no_statement(database_of_service: Database) -> None:
    handler = RecentEvents(NoHandler(), deleted_before="no statement", retention_days=60)
    recent = [an_event(OrderConfirmed, timestamp=datetime.now(UTC) - timedelta(hours=age)) for age in (0, 23)]
    assert handled(database_of_service, handler, recent) == [DONE, DONE]
