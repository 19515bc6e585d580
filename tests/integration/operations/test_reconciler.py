# SPDX-License-Identifier: Apache-2.0
"""The reconciler on real tables: silent about a sound shop, and not about any single damage."""

import argparse
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.resources import files
from itertools import pairwise

import psycopg
import pytest

from orderflow.messaging.clock import ManualClock
from orderflow.messaging.database import Database, SqlTransaction, migrate
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.operations import integrity_queries, reconciler
from orderflow.operations.integrity import _NAMED, Integrity
from orderflow.operations.integrity_queries import integrity
from orderflow.operations.reconciler import Reconciler
from orderflow.services import SERVICES
from orderflow.services.moments import Moments, Reconciliation

pytestmark = pytest.mark.integration

# Order n of 60: half confirmed, a sixth each rejected, cancelled (and refunded), and open (one reserved, one accepted).
SOUND = """
create view planned as select n, ('00000000-0000-7000-8000-' || lpad(to_hex(n * 4), 12, '0'))::uuid as order_id,
    case when n % 6 < 3 then 'confirmed' when n % 6 = 3 then 'rejected' when n % 6 = 4 then 'cancelled'
         when n % 12 = 5 then 'reserved' else 'accepted' end as status
from generate_series(1, 60) as n;

insert into orders select order_id, 'u', '[{"sku": "a", "quantity": 2, "unit_price": 100}]', 200, 'EUR', status, null,
    now(), now() + interval '60 s',
    case when status in ('accepted', 'reserved') then null else now() - interval '1 h' end, '{}'
from planned;
insert into order_history (order_id, status, at) select order_id, 'accepted', now() from planned;
insert into order_history (order_id, status, at)
select order_id, status, now() from planned where status not in ('accepted');

insert into stock_ledger select 'a', null, 'put', 500, 0, 0, now();
insert into reservations select order_id,
    case status when 'confirmed' then 'sold' when 'cancelled' then 'released' when 'rejected' then 'rejected'
         else 'reserved' end, '{"a": 2}', now() from planned where status <> 'accepted';
insert into stock_ledger select 'a', order_id, 'reserve', -2, 2, 0, now() from reservations where state <> 'rejected';
insert into stock_ledger select 'a', order_id, 'release', 2, -2, 0, now() from reservations where state = 'released';
insert into stock_ledger select 'a', order_id, 'sell', 0, -2, 2, now() from reservations where state = 'sold';
insert into stock select 'a', sum(d_available + d_reserved + d_sold), sum(d_available), sum(d_reserved), sum(d_sold),
    100, 'EUR', 1 from stock_ledger;
insert into availability select sku, on_hand, available, unit_price, currency, stock_version from stock;

insert into charges (order_id, state, user_id, amount, currency, payment_token, charge_id, caused_by, trace,
                     created_at, updated_at)
select order_id, case status when 'confirmed' then 'captured' when 'cancelled' then 'refunded' else 'requested' end,
    'u', 200, 'EUR', 'ok', 'c-' || n, order_id, '{}', now(), now() from planned where status not in ('accepted');
insert into notifications (subject, kind, state, payload, trace, created_at, updated_at)
select order_id::text, 'order_' || status, 'sent', '{}', '{}', now(), now()
from planned where status not in ('accepted', 'reserved');
"""

A_CONFIRMED = "(select order_id from planned where status = 'confirmed' order by n limit 1)"
A_REJECTED = "(select order_id from planned where status = 'rejected' order by n limit 1)"
A_CANCELLED = "(select order_id from planned where status = 'cancelled' order by n limit 1)"
NOBODY = "'99999999-0000-7000-8000-000000000000'"

# Damage, the promise that it breaks, and what it is told as.
DAMAGE = {
    "a confirmed order was never charged": (f"delete from charges where order_id = {A_CONFIRMED}", "charge_mismatches"),
    "a confirmed order was charged too little": (
        f"update charges set amount = 1 where order_id = {A_CONFIRMED}",
        "charge_mismatches",
    ),
    "a rejected order's charge was kept": (
        f"update charges set state = 'captured' where order_id = {A_REJECTED}",
        "charge_mismatches",
    ),
    "somebody without an order was charged": (
        (
            f"update charges set order_id = {NOBODY} where order_id = {A_REJECTED};"
            f"update charges set state = 'captured' where order_id = {NOBODY}"
        ),
        "charge_mismatches",
    ),
    "one charge stands for two orders": (
        "update charges set charge_id = 'c-1' where charge_id = 'c-2'",
        "duplicate_charges",
    ),
    "an order was charged twice": (
        (
            "alter table charges drop constraint charges_pkey;"
            f"insert into charges select * from charges where order_id = {A_CONFIRMED}"
        ),
        "duplicate_charges",
    ),
    "an order was told two ends": (
        (
            "insert into notifications select subject, 'order_rejected', state, attempts, due_at, payload, trace,"
            " reason, created_at, updated_at from notifications where kind = 'order_confirmed' limit 1"
        ),
        "duplicate_notifications",
    ),
    "an end was told twice": (
        (
            "alter table notifications drop constraint notifications_pkey;"
            "insert into notifications select * from notifications limit 1"
        ),
        "duplicate_notifications",
    ),
    "an order ended twice": (
        f"insert into order_history (order_id, status, at) values ({A_CONFIRMED}, 'rejected', now())",
        "ended_twice",
    ),
    "a sale left no line in the ledger": (
        f"delete from stock_ledger where kind = 'sell' and order_id = {A_CONFIRMED}",
        "drift",
    ),
    "stock changed without a line in the ledger": (
        "update stock set available = available - 1, sold = sold + 1",
        "drift",
    ),
    "stock was released twice": (
        "update stock set available = available + 2, on_hand = on_hand + 2",
        "drift",
    ),
    "a reservation was lost": ("delete from reservations where state = 'reserved'", "drift"),
    "more was sold than was there": ("update stock_ledger set d_available = 40 where kind = 'put'", "oversold"),
    "orders were confirmed for stock that nobody had": (
        (
            f"""update orders set items = '[{{"sku": "ghost", "quantity": 7, "unit_price": 1}}]'"""
            f" where order_id = {A_CONFIRMED}"
        ),
        "oversold",
    ),
    "a confirmed order was never sold": (
        (
            f"update reservations set state = 'reserved' where order_id = {A_CONFIRMED};"
            f"delete from stock_ledger where kind = 'sell' and order_id = {A_CONFIRMED};"
            "update stock set reserved = reserved + 2, sold = sold - 2"
        ),
        "stock_mismatches",
    ),
    "a confirmed order took nothing": (
        (
            f"delete from reservations where order_id = {A_CONFIRMED};"
            f"delete from stock_ledger where order_id = {A_CONFIRMED};"
            "update stock set available = available + 2, sold = sold - 2"
        ),
        "stock_mismatches",
    ),
    "a cancelled order still holds its units": (
        (
            f"update reservations set state = 'reserved' where order_id = {A_CANCELLED};"
            f"delete from stock_ledger where kind = 'release' and order_id = {A_CANCELLED};"
            "update stock set reserved = reserved + 2, available = available - 2"
        ),
        "stock_mismatches",
    ),
    "a cancelled order was sold": (
        (
            f"update reservations set state = 'sold' where order_id = {A_CANCELLED};"
            f"delete from stock_ledger where kind = 'release' and order_id = {A_CANCELLED};"
            f"insert into stock_ledger values ('a', {A_CANCELLED}, 'sell', 0, -2, 2, now());"
            "update stock set sold = sold + 2, available = available - 2"
        ),
        "stock_mismatches",
    ),
    "somebody without an order holds units": (
        f"update reservations set order_id = {NOBODY} where order_id = {A_CONFIRMED}",
        "stock_mismatches",
    ),
    "a refund never succeeds": (
        f"update charges set state = 'refund_requested' where order_id = {A_CANCELLED}",
        "charge_mismatches",
    ),
    "an order that ended has no end in its history": (
        f"delete from order_history where status = 'confirmed' and order_id = {A_CONFIRMED}",
        "ended_twice",
    ),
    "the shop shows an old stock": ("update stock set stock_version = 2", "stale_availability"),
    "the shop does not know a product": ("delete from availability", "stale_availability"),
    "nobody was told how an order ended": (
        f"delete from notifications where subject = {A_CONFIRMED}::text",
        "untold",
    ),
    "a notification was given up": (
        f"update notifications set state = 'failed' where subject = {A_CONFIRMED}::text",
        "untold",
    ),
    "an order is open long after its hold": (
        (
            "update orders set hold_until = now() - interval '1 hour', accepted_at = now() - interval '2 hours'"
            " where status = 'reserved'"
        ),
        "stuck",
    ),
}


@pytest.fixture
def shop(database: str) -> Iterator[dict[str, Database]]:
    """All four services' tables, in one database; the queries never join across services."""
    opened = Database(database)
    names = [service.name for service in SERVICES]
    scripts = [(name, files(f"orderflow.services.{name}").joinpath("schema.sql").read_text()) for name in names]
    migrate(opened, [*scripts, ("sound", SOUND)])
    yield dict.fromkeys(names, opened)
    opened.close()


def damage(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def wrong(found: Integrity) -> set[str]:
    """The names of everything that a look found."""
    return {part for part in (*_NAMED, "stuck") if getattr(found, part)}


def test_a_sound_shop_keeps_every_promise(shop: dict[str, Database]) -> None:
    found = integrity(shop)
    assert wrong(found) == set()
    assert all(check.kept for check in found.checks())
    assert (found.total, found.open, found.captured) == (60, 10, found.orders["confirmed"])
    assert found.captured_amount == found.confirmed_amount == 200 * found.captured
    assert found.stock.put == found.stock.on_hand == 500


@pytest.mark.parametrize("name", DAMAGE)
def test_a_single_damage_is_seen(name: str, shop: dict[str, Database], database: str) -> None:
    statement, part = DAMAGE[name]
    damage(database, statement)
    found = integrity(shop)
    assert part in wrong(found)
    assert not all(check.kept for check in found.checks())


def test_what_follows_an_end_may_take_its_time(shop: dict[str, Database], database: str) -> None:
    damage(database, "update orders set final_at = now() - interval '5 min' where final_at is not null")
    names = ("a rejected order's charge was kept", "a cancelled order still holds its units", "a refund never succeeds")
    for name in (*names, "a confirmed order was never sold", "nobody was told how an order ended"):
        damage(database, DAMAGE[name][0])
    assert wrong(integrity(shop)) == set()
    found = integrity(shop, grace_seconds=60)
    assert wrong(found) == {"charge_mismatches", "stock_mismatches", "untold"}
    assert [len(check.examples) for check in found.checks() if not check.kept] == [2, 2, 1]


def test_a_shop_that_is_only_behind_is_not_told(shop: dict[str, Database], database: str) -> None:
    moments = Watching()
    found = Reconciler(shop, moments=moments, clock=ManualClock())
    for version in (2, 3):
        damage(database, f"update stock set stock_version = {version + 1}")
        damage(database, f"update availability set stock_version = {version}")
        found.run_once()
    found.run_once()
    assert [told.stale_availability for told in moments.told] == [0, 0, 1]


def test_orders_are_compared_page_by_page_without_gaps(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(database, "delete from charges where order_id in (select order_id from planned where n in (1, 30, 60))")
    damage(database, f"update charges set order_id = {NOBODY}, state = 'captured' where order_id = {A_REJECTED}")
    expected = integrity(shop).charge_mismatches
    assert len(expected) == 4
    for size in (1, 2, 7, 59, 60, 61):
        monkeypatch.setattr(integrity_queries, "_PAGE", size)
        assert integrity(shop).charge_mismatches == expected


class Watching(Moments):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Reconciliation] = []

    def reconciled(self, found: Reconciliation) -> None:
        self.told.append(found)


def test_what_one_look_alone_found_may_be_in_flight_and_is_not_told(shop: dict[str, Database], database: str) -> None:
    moments = Watching()
    found = Reconciler(shop, moments=moments, clock=ManualClock())
    damage(database, "update charges set state = 'requested' where charge_id = 'c-1'")
    found.run_once()
    damage(database, "update charges set state = 'captured' where charge_id = 'c-1'")
    damage(database, "update charges set state = 'requested' where charge_id = 'c-2'")
    found.run_once()
    found.run_once()
    assert [told.charge_mismatches for told in moments.told] == [0, 0, 1]


def test_units_are_told_by_their_number(shop: dict[str, Database], database: str) -> None:
    moments = Watching()
    found = Reconciler(shop, moments=moments, clock=ManualClock())
    damage(database, "update stock set available = available + 3, on_hand = on_hand + 3")
    damage(database, DAMAGE["an order is open long after its hold"][0])
    for _ in range(2):
        found.run_once()
    assert moments.told[-1].ledger_drift_units == 3
    assert moments.told[-1].stuck["reserved"].orders == 5
    assert moments.told[-1].stuck["reserved"].oldest_seconds == pytest.approx(7200, abs=60)


class Slow(ManualClock):
    """A clock on which every look at the time takes ten seconds."""

    def monotonic(self) -> float:
        self.advance(10)
        return super().monotonic()


def test_a_long_look_is_followed_by_a_longer_rest(shop: dict[str, Database]) -> None:
    moments, clock = Watching(), Slow()
    found = Reconciler(shop, moments=moments, clock=clock)
    times = []
    for _ in range(40):
        before = len(moments.told)
        found.run_once()
        if len(moments.told) > before:
            times.append(clock.now().timestamp())
    assert len(times) >= 2
    assert all(later - earlier >= 90 for earlier, later in pairwise(times))


class Gone(Database):
    """A database that is away."""

    @contextmanager
    def transaction(self) -> Generator[SqlTransaction]:
        raise DatabaseUnavailable("gone")
        yield


def test_a_look_that_fails_is_followed_by_a_rest_too(shop: dict[str, Database], database: str) -> None:
    clock, times = Slow(), []
    found = Reconciler(shop | {"notifications": Gone(database)}, moments=Watching(), clock=clock)
    for _ in range(40):
        try:
            found.run_once()
        except DatabaseUnavailable:
            times.append(clock.now().timestamp())
    assert len(times) >= 2
    assert all(later - earlier >= 90 for earlier, later in pairwise(times))


def test_the_command_prints_each_promise(
    shop: dict[str, Database], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    reconciler.arguments(parser)
    environ = {f"ORDERFLOW_RECONCILER_{name.upper()}_URL": database for name in shop}
    assert reconciler.main(parser.parse_args([]), environ) == 0
    damage(database, DAMAGE["a reservation was lost"][0])
    assert reconciler.main(parser.parse_args(["--pause", "0"]), environ) == 1
    assert "stock is conserved" in capsys.readouterr().out
    assert reconciler.main(parser.parse_args(["--json", "--pause", "0"]), environ) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["orders"]["total"] == 60
    broken = [check for check in told["checks"] if not check["kept"]]
    assert [check["promise"] for check in broken] == ["stock is conserved"]
    assert broken[0]["examples"] == ["a"]
    gone = environ | {"ORDERFLOW_RECONCILER_ORDERS_URL": "postgresql://nobody@127.0.0.1:9/none"}
    assert reconciler.main(parser.parse_args([]), gone) == 2
