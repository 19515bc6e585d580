# SPDX-License-Identifier: Apache-2.0
"""The reconciler on real tables: it reports nothing about consistent data, and finds every corruption."""

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
from orderflow.operations.reconciler.findings import CONFIRMED
from orderflow.operations.reconciler.integrity import Integrity
from orderflow.operations.reconciler.queries import integrity
from orderflow.operations.reconciler.reconciler import Reconciler
from orderflow.services import SERVICES
from tests.integration.operations.corruptions import A_REJECTED, CONSISTENT, CORRUPTIONS, UNKNOWN_ORDER

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(database: str) -> Iterator[dict[str, Database]]:
    """All four services' tables, in one database; the queries never join across services."""
    opened = Database(database)
    names = [service.name for service in SERVICES]
    for name in names:
        migrate(opened, database_schema(name))
    with opened.transaction() as transaction:
        transaction.run_script(CONSISTENT)
    yield dict.fromkeys(names, opened)
    opened.close()


def corrupt(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def wrong(found: Integrity) -> set[str]:
    """The names of the checks in which a run found something."""
    return {part for part in (*CONFIRMED, "stuck") if getattr(found, part)}


def test_consistent_databases_keep_every_promise(shop: dict[str, Database]) -> None:
    found = integrity(shop)
    assert wrong(found) == set()
    assert all(check.kept for check in found.checks())
    assert (found.total, found.open, found.captured) == (60, 10, found.orders["confirmed"])
    assert found.captured_amount == found.confirmed_amount == 200 * found.captured
    assert found.stock.put == found.stock.on_hand == 500


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_single_corruption_is_found(name: str, shop: dict[str, Database], database: str) -> None:
    statement, part = CORRUPTIONS[name]
    corrupt(database, statement)
    found = integrity(shop)
    assert part in wrong(found)
    assert not all(check.kept for check in found.checks())


def test_the_effects_of_an_end_may_follow_within_the_grace(shop: dict[str, Database], database: str) -> None:
    corrupt(database, "update orders set final_at = now() - interval '5 min' where final_at is not null")
    names = ("a rejected order's charge was kept", "a cancelled order still holds its units", "a refund never succeeds")
    for name in (*names, "a confirmed order was never sold", "the customer was not notified of the end of an order"):
        corrupt(database, CORRUPTIONS[name][0])
    assert wrong(integrity(shop)) == set()
    found = integrity(shop, grace_seconds=60)
    assert wrong(found) == {"charge_mismatches", "stock_mismatches", "missing_notifications"}
    assert [len(check.examples) for check in found.checks() if not check.kept] == [2, 2, 1]


def test_an_update_in_flight_is_not_reported(shop: dict[str, Database], database: str) -> None:
    instrumentation = RecordedRuns()
    found = Reconciler(shop, instrumentation=instrumentation, clock=ManualClock())
    for version in (2, 3):
        corrupt(database, f"update stock set stock_version = {version + 1}")
        corrupt(database, f"update availability set stock_version = {version}, available = available + 1")
        found.run_once()
    found.run_once()
    assert [run.stale_availability for run in instrumentation.runs] == [0, 0, 1]


def test_a_sale_makes_no_availability_outdated(shop: dict[str, Database], database: str) -> None:
    corrupt(database, "update stock set stock_version = stock_version + 1")
    assert wrong(integrity(shop)) == set()


def test_orders_are_compared_page_by_page_without_gaps(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(database, "delete from charges where order_id in (select order_id from planned where n in (1, 30, 60))")
    corrupt(
        database, f"update charges set order_id = {UNKNOWN_ORDER}, state = 'captured' where order_id = {A_REJECTED}"
    )
    expected = integrity(shop).charge_mismatches
    assert len(expected) == 4
    for size in (1, 2, 7, 59, 60, 61):
        monkeypatch.setattr(queries, "_PAGE", size)
        assert integrity(shop).charge_mismatches == expected


class RecordedRuns(Instrumentation):
    """Records the result of each run."""

    def __init__(self) -> None:
        self.runs: list[Reconciliation] = []
        self.then: Callable[[], None] = lambda: None

    def reconciled(self, found: Reconciliation) -> None:
        self.runs.append(found)
        self.then()


def test_what_only_one_run_found_is_not_reported(shop: dict[str, Database], database: str) -> None:
    instrumentation = RecordedRuns()
    found = Reconciler(shop, instrumentation=instrumentation, clock=ManualClock())
    corrupt(database, "update charges set state = 'requested' where charge_id = 'c-1'")
    found.run_once()
    corrupt(database, "update charges set state = 'captured' where charge_id = 'c-1'")
    corrupt(database, "update charges set state = 'requested' where charge_id = 'c-2'")
    found.run_once()
    found.run_once()
    assert [run.charge_mismatches for run in instrumentation.runs] == [0, 0, 1]


def test_drift_is_reported_as_a_number_of_units(shop: dict[str, Database], database: str) -> None:
    instrumentation = RecordedRuns()
    found = Reconciler(shop, instrumentation=instrumentation, clock=ManualClock())
    corrupt(database, "update stock set available = available + 3, on_hand = on_hand + 3")
    corrupt(database, CORRUPTIONS["an order is open long after its hold"][0])
    for _ in range(2):
        found.run_once()
    assert instrumentation.runs[-1].ledger_drift_units == 3
    assert instrumentation.runs[-1].stuck["reserved"].orders == 5
    assert instrumentation.runs[-1].stuck["reserved"].oldest_seconds == pytest.approx(7200, abs=60)


class FailingDatabase(Database):
    """A database that fails at its first two transactions; each transaction takes ten seconds."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        super().__init__(url)
        self.begun = list[float]()
        self._clock = clock

    @contextmanager
    def transaction(self, *, limited: bool = True) -> Generator[SqlTransaction]:
        self.begun.append(self._clock.monotonic())
        self._clock.advance(10)
        if len(self.begun) < 3:
            raise DatabaseUnavailable("no tables yet")
        with super().transaction(limited=limited) as open_transaction:
            yield open_transaction


def test_a_failed_run_is_repeated_soon_but_runs_take_a_tenth_of_the_time_at_most(
    shop: dict[str, Database], database: str
) -> None:
    clock, instrumentation = ManualClock(), RecordedRuns()
    failing = FailingDatabase(database, clock)
    found = Reconciler(shop | {"orders": failing}, instrumentation=instrumentation, clock=clock, interval_seconds=1000)
    loop = found.loop()
    instrumentation.then = loop.stop
    loop.run()
    assert len(instrumentation.runs) == 1
    assert failing.begun[:3] == pytest.approx([0, 100, 200])


def test_the_command_prints_each_promise(
    shop: dict[str, Database], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    environ = {f"ORDERFLOW_RECONCILER_{name.upper()}_URL": database for name in shop}
    assert command.main(parser.parse_args([]), environ) == 0
    corrupt(database, CORRUPTIONS["a reservation was lost"][0])
    assert command.main(parser.parse_args(["--pause", "0"]), environ) == 1
    assert "stock is conserved" in capsys.readouterr().out
    assert command.main(parser.parse_args(["--json", "--pause", "0"]), environ) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["orders"]["total"] == 60
    broken = [check for check in report["checks"] if not check["kept"]]
    assert [check["promise"] for check in broken] == ["stock is conserved"]
    assert broken[0]["examples"] == ["a"]
    gone = environ | {"ORDERFLOW_RECONCILER_ORDERS_URL": "postgresql://nobody@127.0.0.1:9/none"}
    assert command.main(parser.parse_args([]), gone) == 2
