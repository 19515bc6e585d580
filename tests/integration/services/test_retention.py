# SPDX-License-Identifier: Apache-2.0
"""Old orders, charges, notifications and ledgers go, a page at a time; open work and every sum stay."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from orderflow.messaging import pruning
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.pruning import STATEMENT_SECONDS, Pruner
from orderflow.messaging.service import Prunable
from orderflow.messaging.uuid7 import first_uuid7
from orderflow.services import SERVICES
from orderflow.services.inventory import stock_retention
from orderflow.services.inventory.stock_retention import RetiredPuts, retired_reservations
from orderflow.services.notifications import notification_retention
from orderflow.services.notifications.notification_retention import RetiredNotifications, RetiredOtherNotifications
from orderflow.services.orders import order_retention
from orderflow.services.orders.order_retention import retired_orders
from orderflow.services.payments import charge_retention
from orderflow.services.payments.charge_retention import retired_charges
from tests.rigs.consumer import one, query
from tests.rigs.old_orders import fill
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration

DAYS = 60
EVERYTHING: tuple[Prunable, ...] = (
    retired_orders(days=DAYS),
    retired_reservations(days=DAYS),
    RetiredPuts(days=DAYS),
    retired_charges(days=DAYS),
    RetiredNotifications(days=DAYS),
    RetiredOtherNotifications(days=DAYS),
)
# Sums over the rows that exist and those that are deleted, by service.
SUMS: Mapping[str, str] = {
    "orders by status": """
        select status, currency, sum(orders), sum(amount) from (
            select status, currency, count(*) as orders, sum(total_amount) as amount from orders group by 1, 2
            union all select status, currency, orders, amount from retired_orders) as t group by 1, 2 order by 1, 2""",
    "units of confirmed orders": """
        select sku, sum(units) from (
            select line ->> 'sku' as sku, (line ->> 'quantity')::bigint as units
            from orders, jsonb_array_elements(items) as line where status = 'confirmed'
            union all select sku, units from retired_units) as t group by 1 order by 1""",
    "lines of the ledger": """
        select sku, sum(put), sum(available), sum(reserved), sum(sold) from (
            select sku, case kind when 'put' then d_available else 0 end as put, d_available as available,
                   d_reserved as reserved, d_sold as sold from stock_ledger
            union all select sku, put, available, reserved, sold from retired_stock) as t group by 1 order by 1""",
    "units held": """
        select state, sku, sum(units) from (
            select state, key as sku, value::bigint as units from reservations, jsonb_each_text(items)
            where state in ('reserved', 'sold')
            union all select 'sold', sku, held_sold from retired_stock) as t group by 1, 2 order by 1, 2""",
    "reservations": """
        select state, sum(reservations) from (
            select state, count(*) as reservations from reservations group by 1
            union all select state, reservations from retired_reservations) as t group by 1 order by 1""",
    "charges": """
        select state, currency, sum(charges), sum(amount) from (
            select state, currency, count(*) as charges, sum(amount) as amount from charges group by 1, 2
            union all select state, currency, charges, amount from retired_charges) as t group by 1, 2 order by 1, 2""",
    "notifications": """
        select kind, state, sum(notifications) from (
            select kind, state, count(*) as notifications from notifications group by 1, 2
            union all select kind, state, notifications from retired_notifications) as t group by 1, 2 order by 1, 2""",
}
TABLES = ("orders", "order_history", "reservations", "stock_ledger", "charges", "notifications")


class RecordedPruning(MessagingInstrumentation):
    """Records the deleted rows of each page, and the failed pages."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.failures = 0

    def pruned(self, name: str, rows: int, finished_seconds: float) -> None:
        self.rows.setdefault(name, []).append(rows)

    def prune_failed(self, name: str) -> None:
        self.failures += 1


@pytest.fixture
def url(database: str) -> str:
    """A database with the tables of all services."""
    for service in SERVICES:
        prepare_service(database, service.name)
    return database


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    """A connection like the pruner's."""
    opened = Database(url, statement_timeout_seconds=STATEMENT_SECONDS)
    yield opened
    opened.close()


def fill_all(url: str, *, rows: int, first_days_ago: float = 120, last_days_ago: float = 0) -> None:
    urls = dict.fromkeys((service.name for service in SERVICES), url)
    fill(urls, rows=rows, first_days_ago=first_days_ago, last_days_ago=last_days_ago)


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def prune(db: Database, *prunables: Prunable, recorded: RecordedPruning | None = None) -> RecordedPruning:
    """Until the round is complete. On a busy machine a page may time out: it is repeated."""
    recorded = recorded or RecordedPruning()
    pruner = Pruner(db, prunables or EVERYTHING, instrumentation=recorded)
    more = True
    while more:
        with suppress(DatabaseUnavailable):
            more = pruner.prune()
    return recorded


def sums(url: str) -> dict[str, list[tuple[Any, ...]]]:
    return {name: query(url, statement) for name, statement in SUMS.items()}


def counts(url: str) -> dict[str, int]:
    return {table: one(url, f"select count(*) from {table}") for table in TABLES}


def next_round(url: str, *, from_the_beginning: bool = False) -> None:
    execute(url, "update pruning set due_at = now()" + (", position = ''" if from_the_beginning else ""))


def test_what_ended_before_the_retention_goes_and_the_sums_stay(url: str, db: Database) -> None:
    fill_all(url, rows=1200)
    before, rows = sums(url), counts(url)
    prune(db)
    assert sums(url) == before
    old, bound = "< now() - interval '60 d'", first_uuid7(datetime.now(UTC)).int
    assert one(url, f"select count(*) from orders where final_at {old}") == 0
    assert one(url, f"select count(*) from reservations where state <> 'reserved' and updated_at {old}") == 0
    assert one(url, f"select count(*) from stock_ledger where order_id is null and at {old}") == 0
    assert one(url, f"select count(*) from charges where due_at is null and updated_at {old}") == 0
    assert one(url, f"select count(*) from notifications where updated_at {old}") == 0
    for table, left in counts(url).items():
        assert 0.4 * rows[table] < left < 0.65 * rows[table], table
    assert max(query(url, "select order_id from orders"))[0].int < bound


def test_open_work_and_the_rows_that_belong_to_it_stay(url: str, db: Database) -> None:
    fill_all(url, rows=120, first_days_ago=120, last_days_ago=90)
    prune(db)
    assert query(url, "select distinct status from orders order by 1") == [("accepted",), ("reserved",)]
    assert one(url, "select count(*) from orders") == 20
    assert query(url, "select distinct state from reservations") == [("reserved",)]
    assert query(url, "select distinct kind from stock_ledger") == [("reserve",)]
    assert one(url, "select count(*) from stock_ledger") == 2 * one(url, "select count(*) from reservations") == 20
    assert query(url, "select distinct state from charges") == [("requested",)]
    assert one(url, "select count(*) from order_history") == 30
    assert counts(url)["notifications"] == 0


@pytest.mark.parametrize(
    ("change", "table", "rows"),
    [
        ("update charges set state = 'refund_failed' where charge_id = 'c-1'", "charges", 1),
        ("update charges set state = 'unknown' where charge_id = 'c-1'", "charges", 1),
        ("update charges set state = 'cancelled', due_at = now() where charge_id = 'c-1'", "charges", 1),
        ("update charges set updated_at = now() where charge_id = 'c-1'", "charges", 1),
        ("update notifications set state = 'pending' where kind = 'order_rejected'", "notifications", 10),
        ("update notifications set updated_at = now() where kind = 'stock_low'", "notifications", 3),
        ("update reservations set updated_at = now() where state = 'sold'", "reservations", 30),
        ("update orders set final_at = now() where status = 'cancelled'", "orders", 10),
    ],
)
def test_what_needs_more_work_or_changed_lately_stays_until_a_later_round(
    url: str, db: Database, change: str, table: str, rows: int
) -> None:
    fill_all(url, rows=60, first_days_ago=120, last_days_ago=90)
    execute(url, "update orders set status = 'rejected', final_at = accepted_at where final_at is null")
    execute(url, "update charges set state = 'declined', due_at = null where due_at is not null")
    execute(url, "delete from reservations where state = 'reserved'")
    execute(url, change)
    prune(db)
    assert one(url, f"select count(*) from {table}") == rows
    execute(url, "update charges set state = 'captured', due_at = null, updated_at = now() - interval '90 d'")
    execute(url, "update notifications set state = 'failed', updated_at = now() - interval '90 d'")
    execute(url, "update reservations set updated_at = now() - interval '90 d'")
    execute(url, "update orders set final_at = now() - interval '90 d'")
    next_round(url, from_the_beginning=True)
    prune(db)
    assert one(url, f"select count(*) from {table}") == 0


def test_pages_are_bounded_and_a_round_with_little_to_do_visits_little(url: str, db: Database) -> None:
    fill_all(url, rows=24_000)
    recorded = prune(db)
    for name, most in {"reservations": 2000, "orders": 500, "charges": 2000, "notifications": 2000}.items():
        assert len(recorded.rows[name]) >= 5, name
        assert max(recorded.rows[name]) <= most, name
    next_round(url)
    recorded = prune(db)
    assert {name: len(rows) for name, rows in recorded.rows.items()} == dict.fromkeys(recorded.rows, 1)


@pytest.mark.parametrize("collation", ["C", "en-x-icu", "cs-x-icu"])
def test_notifications_go_in_every_collation(url: str, db: Database, collation: str) -> None:
    execute(url, f'alter table notifications alter column subject type text collate "{collation}"')
    fill_all(url, rows=9000)
    execute(url, "update notifications set subject = '_' || subject where kind = 'stock_low' and subject like '%0'")
    execute(url, "update notifications set subject = 'Z' || subject where kind = 'stock_low' and subject like 's%5'")
    before = query(url, SUMS["notifications"])
    recorded = prune(db, *EVERYTHING[-2:])
    assert one(url, "select count(*) from notifications where updated_at < now() - interval '60 d'") == 0
    assert query(url, SUMS["notifications"]) == before
    next_round(url)
    assert sum(len(rows) for rows in prune(db, *EVERYTHING[-2:]).rows.values()) == 2
    assert len(recorded.rows["notifications"]) >= 3


def test_a_page_counts_the_lines_of_large_orders(url: str, db: Database) -> None:
    fill_all(url, rows=60, first_days_ago=120, last_days_ago=90)
    execute(
        url,
        """
        update reservations set items = (select jsonb_object_agg('x-' || n, 1) from generate_series(1, 100) as n)
        where state = 'sold';
        insert into stock_ledger select 'x-' || n, order_id, kind, 0, 0, 0, now() from generate_series(1, 100) as n,
            reservations, unnest(array['reserve', 'sell']) as kind where state = 'sold'
        """,
    )
    recorded = prune(db, EVERYTHING[1])
    assert len(recorded.rows["reservations"]) >= 3
    assert 1000 < max(recorded.rows["reservations"]) <= 2000 + 5 * 30  # and the lines of the orders as filled
    assert query(url, "select distinct state from reservations") == [("reserved",)]


def test_two_processes_prune_at_once_and_every_row_is_counted_once(url: str) -> None:
    fill_all(url, rows=6000)
    before = sums(url)
    databases = [Database(url), Database(url)]
    threads = [threading.Thread(target=prune, args=(opened,)) for opened in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for opened in databases:
        prune(opened)
        opened.close()
    assert sums(url) == before
    assert one(url, "select count(*) from orders where final_at < now() - interval '60 d'") == 0


def test_a_failed_page_deletes_nothing_and_adds_nothing(url: str) -> None:
    fill_all(url, rows=3000)
    before, rows = sums(url), counts(url)
    waiting, recorded = Database(url, statement_timeout_seconds=0.3), RecordedPruning()
    with psycopg.connect(url) as busy:
        for table in ("orders", "reservations", "charges", "notifications"):
            busy.execute(f"select from {table} for update".encode())
        busy.execute("select from stock_ledger where order_id is null for update")
        pruner = Pruner(waiting, EVERYTHING, instrumentation=recorded)
        with pytest.raises(DatabaseUnavailable):
            pruner.prune()
        assert recorded.failures == 6
        assert (sums(url), counts(url)) == (before, rows)
    prune(waiting, recorded=recorded)
    assert sums(url) == before
    assert one(url, "select count(*) from charges where due_at is null and updated_at < now() - interval '60 d'") == 0
    waiting.close()


def buffers(url: str, statement: str, parameters: dict[str, object]) -> int:
    """Pages of tables and indexes that one statement touches, in a transaction that is rolled back."""
    with psycopg.connect(url) as connection:
        connection.execute("insert into pruning (name) values ('x')")
        connection.execute(pruning._LOCK.encode(), {"name": "x", "sweep": 1})
        explained = f"explain (analyze, buffers, format json) {statement}"
        ((plan,),) = connection.execute(explained.encode(), parameters).fetchall()
        connection.rollback()
    top = (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


STATEMENTS = {
    "orders": order_retention._PRUNE_PAGE,
    "reservations": stock_retention._PRUNE_PAGE,
    "puts": stock_retention._PRUNE_PUTS,
    "charges": charge_retention._PRUNE_PAGE,
    "notifications": notification_retention._BOUNDED,
    "other notifications": notification_retention._TO_THE_END,
}


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_page_touches_as_many_buffers_in_large_tables_as_in_small_ones(url: str, *, analyzed: bool) -> None:
    touched: list[dict[str, int]] = []
    for rows in (6_000, 60_000):
        tables = ", ".join((*TABLES, "stock", "availability"))
        execute(url, f"truncate {tables}")
        fill_all(url, rows=rows, first_days_ago=900, last_days_ago=0)
        if analyzed:
            execute(url, "analyze")
        before = datetime.now(UTC)
        parameters: dict[str, object] = {
            "after": UUID(int=0), "bound": first_uuid7(before), "before": before, "limit": 200,
        }  # fmt: skip
        texts = parameters | {"subject": "", "kind": "", "bound": str(first_uuid7(before))}
        own: dict[str, dict[str, object]] = {
            "puts": parameters | {"after": datetime(2000, 1, 1, tzinfo=UTC)},
            "notifications": texts,
            "other notifications": texts | {"subject": "1"},
        }
        touched.append({name: buffers(url, text, own.get(name, parameters)) for name, text in STATEMENTS.items()})
    small, large = touched
    for name in STATEMENTS:
        assert large[name] < 1.5 * small[name] + 20, (name, touched)
        assert large[name] < 20 * 200, (name, touched)
