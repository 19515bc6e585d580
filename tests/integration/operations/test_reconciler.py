# SPDX-License-Identifier: Apache-2.0
"""The reconciler on real tables: silent about a sound shop, and not about any single damage."""

import argparse
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from orderflow.database_schema import database_schema
from orderflow.instrumentation import Instrumentation, Reconciliation
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.database import Database, SqlTransaction
from orderflow.messaging.postgres.migrations import migrate
from orderflow.operations.reconciler import command, queries
from orderflow.operations.reconciler.integrity import _NAMED, Integrity
from orderflow.operations.reconciler.queries import integrity
from orderflow.operations.reconciler.reconciler import Reconciler
from orderflow.services import SERVICES
from tests.integration.operations.corruptions import A_REJECTED, DAMAGE, NOBODY, SOUND

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(database: str) -> Iterator[dict[str, Database]]:
    """All four services' tables, in one database; the queries never join across services."""
    opened = Database(database)
    names = [service.name for service in SERVICES]
    for name in names:
        migrate(opened, database_schema(name))
    with opened.transaction() as transaction:
        transaction.run_script(SOUND)
    yield dict.fromkeys(names, opened)
    opened.close()


def damage(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def wrong(found: Integrity) -> set[str]:
    """The names of everything that a look found."""
    return {part for part in (*_NAMED, "stuck") if getattr(found, part)}


def test_consistent_databases_keep_every_promise(shop: dict[str, Database]) -> None:
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
    assert wrong(found) == {"charge_mismatches", "stock_mismatches", "missing_notifications"}
    assert [len(check.examples) for check in found.checks() if not check.kept] == [2, 2, 1]


def test_an_update_in_flight_is_not_reported(shop: dict[str, Database], database: str) -> None:
    instrumentation = Watching()
    found = Reconciler(shop, instrumentation=instrumentation, clock=ManualClock())
    for version in (2, 3):
        damage(database, f"update stock set stock_version = {version + 1}")
        damage(database, f"update availability set stock_version = {version}")
        found.run_once()
    found.run_once()
    assert [told.stale_availability for told in instrumentation.told] == [0, 0, 1]


def test_orders_are_compared_page_by_page_without_gaps(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(database, "delete from charges where order_id in (select order_id from planned where n in (1, 30, 60))")
    damage(database, f"update charges set order_id = {NOBODY}, state = 'captured' where order_id = {A_REJECTED}")
    expected = integrity(shop).charge_mismatches
    assert len(expected) == 4
    for size in (1, 2, 7, 59, 60, 61):
        monkeypatch.setattr(queries, "_PAGE", size)
        assert integrity(shop).charge_mismatches == expected


class Watching(Instrumentation):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Reconciliation] = []
        self.then: Callable[[], None] = lambda: None

    def reconciled(self, found: Reconciliation) -> None:
        self.told.append(found)
        self.then()


def test_what_only_one_run_found_is_not_reported(shop: dict[str, Database], database: str) -> None:
    instrumentation = Watching()
    found = Reconciler(shop, instrumentation=instrumentation, clock=ManualClock())
    damage(database, "update charges set state = 'requested' where charge_id = 'c-1'")
    found.run_once()
    damage(database, "update charges set state = 'captured' where charge_id = 'c-1'")
    damage(database, "update charges set state = 'requested' where charge_id = 'c-2'")
    found.run_once()
    found.run_once()
    assert [told.charge_mismatches for told in instrumentation.told] == [0, 0, 1]


def test_units_are_reported_by_their_number(shop: dict[str, Database], database: str) -> None:
    instrumentation = Watching()
    found = Reconciler(shop, instrumentation=instrumentation, clock=ManualClock())
    damage(database, "update stock set available = available + 3, on_hand = on_hand + 3")
    damage(database, DAMAGE["an order is open long after its hold"][0])
    for _ in range(2):
        found.run_once()
    assert instrumentation.told[-1].ledger_drift_units == 3
    assert instrumentation.told[-1].stuck["reserved"].orders == 5
    assert instrumentation.told[-1].stuck["reserved"].oldest_seconds == pytest.approx(7200, abs=60)


class Late(Database):
    """A database whose tables are made only after the second question; each question takes ten seconds."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        super().__init__(url)
        self.asked = list[float]()
        self._clock = clock

    @contextmanager
    def transaction(self) -> Generator[SqlTransaction]:
        self.asked.append(self._clock.monotonic())
        self._clock.advance(10)
        if len(self.asked) < 3:
            raise DatabaseUnavailable("no tables yet")
        with super().transaction() as open_transaction:
            yield open_transaction


def test_it_looks_again_soon_after_a_look_that_failed_but_a_tenth_of_the_time_at_most(
    shop: dict[str, Database], database: str
) -> None:
    clock, instrumentation = ManualClock(), Watching()
    late = Late(database, clock)
    found = Reconciler(shop | {"orders": late}, instrumentation=instrumentation, clock=clock)
    loop = found.loop(interval_seconds=1000)
    instrumentation.then = loop.stop
    loop.run()
    assert len(instrumentation.told) == 1
    assert late.asked[:3] == pytest.approx([0, 100, 200])


def test_the_command_prints_each_promise(
    shop: dict[str, Database], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    environ = {f"ORDERFLOW_RECONCILER_{name.upper()}_URL": database for name in shop}
    assert command.main(parser.parse_args([]), environ) == 0
    damage(database, DAMAGE["a reservation was lost"][0])
    assert command.main(parser.parse_args(["--pause", "0"]), environ) == 1
    assert "stock is conserved" in capsys.readouterr().out
    assert command.main(parser.parse_args(["--json", "--pause", "0"]), environ) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["orders"]["total"] == 60
    broken = [check for check in told["checks"] if not check["kept"]]
    assert [check["promise"] for check in broken] == ["stock is conserved"]
    assert broken[0]["examples"] == ["a"]
    gone = environ | {"ORDERFLOW_RECONCILER_ORDERS_URL": "postgresql://nobody@127.0.0.1:9/none"}
    assert command.main(parser.parse_args([]), gone) == 2
