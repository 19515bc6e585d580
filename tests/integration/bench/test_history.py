# SPDX-License-Identifier: Apache-2.0
"""The history that the bench preloads keeps every promise, so the reconciler works on it as on a real one."""

import psycopg
import pytest

from orderflow.database_schema import database_schema
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import migrate
from orderflow.operations.reconciler.look import Looks
from orderflow.operations.reconciler.queries import integrity
from orderflow.services import SERVICES
from tests.bench.history import INBOX_ROWS, preload

pytestmark = pytest.mark.integration

STOCK = "insert into stock select 'sku-' || n, 0, 0, 0, 0, 1999, 'EUR', 1 from generate_series(1, 20) as n"
AVAILABILITY = "insert into availability select 'sku-' || n, 0, 0, 1999, 'EUR', 1 from generate_series(1, 20) as n"


def test_years_of_orders_are_complete_and_nothing_is_wrong_with_them(database: str) -> None:
    opened = Database(database)
    for service in SERVICES:
        migrate(opened, database_schema(service.name))
    with opened.transaction() as transaction:
        transaction.run_script(f"{STOCK};{AVAILABILITY}")
    shop = dict.fromkeys([service.name for service in SERVICES], opened)
    preload(dict.fromkeys(shop, database), 1000)
    found = integrity(shop)
    assert (found.total, found.open, found.orders["rejected"], found.captured) == (1000, 0, 50, 900)
    assert [check.promise for check in found.checks() if not check.kept] == []
    look = Looks(shop, clock=ManualClock()).look()
    assert not look.found.suspicious
    assert look.stock_known
    opened.close()
    with psycopg.connect(database) as connection:
        ((rows,),) = connection.execute("select count(*) from inbox").fetchall()
    assert rows >= INBOX_ROWS * 1000 * 0.99
