# SPDX-License-Identifier: Apache-2.0
"""What a look of the reconciler costs, by what the server reads."""

from typing import Any

import psycopg
import pytest

from local.eventually import eventually
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler import ledger_sums, look
from orderflow.operations.reconciler.reconciler import Reconciler
from tests.rigs.looks import OnePage, all_services, change, reconciler

pytestmark = pytest.mark.integration

OLD_ORDERS = """
truncate orders, order_history, charges, reservations, notifications, stock_ledger, stock;
insert into orders select id, 'u', '[{{"sku": "a", "quantity": 1, "unit_price": 5}}]', 5, 'EUR', 'confirmed', null,
    at, at, at, '{{}}'
from (select ('01000000-' || lpad(to_hex(n / 65536), 4, '0') || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid as id,
             now() - interval '1 year' + n * interval '1 s' as at from generate_series(1, {orders}) as n) as old;
insert into order_history (order_id, status, at) select order_id, status, final_at from orders;
insert into charges (order_id, state, user_id, amount, currency, payment_token, charge_id, caused_by, trace, created_at,
    updated_at)
select order_id, 'captured', 'u', 5, 'EUR', '', order_id::text, order_id, '{{}}', final_at, final_at from orders;
insert into reservations select order_id, 'sold', '{{"a": 1}}', final_at from orders;
insert into stock_ledger select 'a', order_id, 'reserve', -1, 1, 0, final_at from orders;
insert into stock_ledger select 'a', order_id, 'sell', 0, -1, 1, final_at from orders;
insert into stock_ledger values ('a', null, 'put', {orders}, 0, 0, now() - interval '2 years');
insert into stock values ('a', {orders}, 0, 0, {orders}, 100, 'EUR', 1);
insert into notifications (subject, kind, state, payload, trace, created_at, updated_at) select order_id::text,
    'order_confirmed', 'sent', '{{}}', '{{}}', final_at, final_at from orders;
vacuum analyze;
"""
TUPLES = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_user_tables"
OTHERS = """
select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'
and pid <> pg_backend_pid()
"""
ENTRIES = "select sum(idx_tup_read) from pg_stat_user_indexes"


def test_the_cost_of_a_look_does_not_grow_with_the_number_of_old_orders(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the server reads: rows and index entries."""
    monkeypatch.setattr(look, "_ROWS", 50)
    monkeypatch.setattr(ledger_sums, "_ROWS", 200)
    costs = []
    with all_services(database) as shop:
        for orders in (10_000, 30_000):
            change(database, OLD_ORDERS.format(orders=orders))
            found, recorded = reconciler(shop, clock=OnePage())
            costs.append([cost(database, shop, found) for _ in range(5)])
            assert recorded.found[-1].ledger_drift_units is None  # one page of the ledger a look
    small, large = costs
    assert max(large) <= max(small) + 100
    assert max(large) < 2000


def cost(url: str, shop: dict[str, Database], found: Reconciler) -> int:
    """Rows and index entries that one look reads."""
    (connection,) = set(shop.values())
    connection.close()
    before = counted(url)
    found.run_once()
    connection.close()
    return counted(url) - before


def counted(url: str) -> int:
    """What the server has read so far. It counts that when a connection ends, before it removes the connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        eventually(lambda: one(connection, OTHERS) == 0, seconds=30)
        return one(connection, TUPLES) + one(connection, ENTRIES)


def one(connection: psycopg.Connection[tuple[Any, ...]], statement: str) -> int:
    ((number,),) = connection.execute(statement.encode()).fetchall()
    return int(number)
