# SPDX-License-Identifier: Apache-2.0
"""The reconciler's numbers stay when old rows are deleted, whenever each service does it; open work is still found."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from orderflow.instrumentation import Instrumentation, Reconciliation
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.pruning import Pruner
from orderflow.messaging.service import Prunable
from orderflow.operations.reconciler.queries import integrity
from orderflow.operations.reconciler.reconciler import Reconciler
from orderflow.services import SERVICES
from orderflow.services.inventory.stock_retention import RetiredPuts, retired_reservations
from orderflow.services.notifications.notification_retention import RetiredNotifications, RetiredOtherNotifications
from orderflow.services.orders.order_retention import retired_orders
from orderflow.services.payments.charge_retention import retired_charges
from tests.rigs.consumer import one
from tests.rigs.old_orders import fill
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration

REFUSED_REFUND = """
insert into charges (order_id, state, user_id, amount, currency, payment_token, charge_id, caused_by, trace, created_at,
                     updated_at)
values ('{0}', 'refund_failed', 'u', 250, 'EUR', '', 'c-0', '{0}', '{{}}', now(), now())
"""
NAMES = [service.name for service in SERVICES]
PRUNED: dict[str, tuple[Prunable, ...]] = {
    "orders": (retired_orders(days=60),),
    "inventory": (retired_reservations(days=60), RetiredPuts(days=60)),
    "payments": (retired_charges(days=60),),
    "notifications": (RetiredNotifications(days=60), RetiredOtherNotifications(days=60)),
}


class RecordedLooks(Instrumentation):
    """Records what each look reported."""

    def __init__(self) -> None:
        self.found: list[Reconciliation] = []

    def reconciled(self, found: Reconciliation) -> None:
        self.found.append(found)

    @property
    def wrong(self) -> set[str]:
        """The numbers of the last look that are not 0."""
        found = self.found[-1]
        names = set(found.__struct_fields__) - {"behind_seconds", "sweep_age_seconds", "valid_seconds"}
        return {name for name in names if getattr(found, name) not in (0, {})}


@pytest.fixture
def url(database: str) -> str:
    """The tables of all services in one database, with orders of 120 days."""
    for name in NAMES:
        prepare_service(database, name)
    fill(dict.fromkeys(NAMES, database), rows=1200, first_days_ago=120, last_days_ago=0.1)
    return database


@pytest.fixture
def shop(url: str) -> Iterator[dict[str, Database]]:
    opened = Database(url)
    yield dict.fromkeys(NAMES, opened)
    opened.close()


def prune(shop: dict[str, Database], *services: str) -> None:
    for name in services:
        pruner = Pruner(shop[name], PRUNED[name], instrumentation=MessagingInstrumentation())
        while pruner.prune():
            pass


def corrupt(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def an_order(url: str, status: str, *, old: bool) -> UUID:
    order: UUID = one(url, f"select order_id from orders where status = '{status}' order by order_id"
                           f" {'' if old else 'desc'} limit 1")  # fmt: skip
    return order


@pytest.mark.parametrize("first", NAMES)
def test_every_number_stays_while_the_services_delete_one_after_the_other(
    shop: dict[str, Database], first: str
) -> None:
    before = integrity(shop)
    assert all(check.kept for check in before.checks())
    for name in sorted(NAMES, key=lambda name: name != first):
        prune(shop, name)
        assert integrity(shop) == before, name


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("update charges set state = 'refund_failed' where order_id = '{}'", "charge_mismatches"),
        ("update reservations set state = 'reserved' where order_id = '{}'", "stock_mismatches"),
    ],
)
def test_open_work_of_a_deleted_order_is_still_a_finding(
    shop: dict[str, Database], url: str, statement: str, part: str
) -> None:
    order = an_order(url, "cancelled", old=True)
    corrupt(url, statement.format(order))
    prune(shop, *NAMES)
    assert one(url, f"select count(*) from orders where order_id = '{order}'") == 0
    assert str(order) in getattr(integrity(shop), part)


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("delete from charges where order_id = '{}'", "charge_mismatches"),
        ("delete from orders where order_id = '{}'", "charge_mismatches"),
        ("delete from reservations where order_id = '{}'", "stock_mismatches"),
        ("delete from orders where order_id = '{}'", "stock_mismatches"),
        ("delete from notifications where subject = '{}'", "missing_notifications"),
    ],
)
def test_a_missing_row_of_a_recent_order_is_still_a_finding(
    shop: dict[str, Database], url: str, statement: str, part: str
) -> None:
    prune(shop, *NAMES)
    order = an_order(url, "confirmed", old=False)
    corrupt(url, statement.format(order))
    assert str(order) in getattr(integrity(shop), part)


def test_looks_find_nothing_while_the_services_delete_and_open_work_afterwards(
    shop: dict[str, Database], url: str
) -> None:
    recorded = RecordedLooks()
    found = Reconciler(shop, instrumentation=recorded, clock=ManualClock())
    order = an_order(url, "cancelled", old=True)
    found.run_once()
    for name in NAMES:
        prune(shop, name)
        for _ in range(2):
            found.run_once()
        assert recorded.wrong == set(), name
    corrupt(url, REFUSED_REFUND.format(order))
    new = Reconciler(shop, instrumentation=recorded, clock=ManualClock())
    for _ in range(2):
        new.run_once()
    assert recorded.wrong == {"charge_mismatches"}


def test_a_wrong_charge_of_an_old_order_is_still_a_finding(shop: dict[str, Database], url: str) -> None:
    prune(shop, "notifications")
    order = an_order(url, "confirmed", old=True)
    corrupt(url, f"update charges set amount = 1 where order_id = '{order}'")
    assert integrity(shop).charge_mismatches == {str(order)}
