# SPDX-License-Identifier: Apache-2.0
"""The looks of the reconciler's process on real tables: what they find, and what they do not."""

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager

import psycopg
import pytest

from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.database import Database, SqlTransaction
from orderflow.operations.reconciler import ledger_sums, look
from orderflow.operations.reconciler.queries import integrity
from orderflow.operations.reconciler.sweep import Sweep
from tests.integration.operations.corruptions import A_CANCELLED, A_CONFIRMED, CORRUPTIONS
from tests.rigs.looks import OnePage, RecordedLooks, all_services, change, reconciler

pytestmark = pytest.mark.integration

# A look knows the single order whose units were never reserved, not the sums over all confirmed orders.
FOUND_AS = {"orders were confirmed for a SKU without stock": "stock_mismatches"}
# Only the sweep reads what belongs to orders that are unknown or open.
NOT_IN_A_WINDOW = {"an unknown order was charged", "a reservation was lost"}
NUMBERS = {"oversold": "oversold_units", "drift": "ledger_drift_units"}
ENDED_RECENTLY = "update orders set final_at = now() - interval '11 min' + interval '30 s' where final_at is not null"
# What retention does to an old order: its lines and its reservation go, and their sums stay.
RETIRE = f"""
insert into retired_stock select 'a', 0, sum(d_available), sum(d_reserved), sum(d_sold), sum(d_sold)
from stock_ledger where order_id in ({A_CONFIRMED}, {A_CANCELLED});
delete from stock_ledger where order_id in ({A_CONFIRMED}, {A_CANCELLED});
delete from reservations where order_id in ({A_CONFIRMED}, {A_CANCELLED});
delete from charges where order_id in ({A_CONFIRMED}, {A_CANCELLED});
delete from notifications where subject in ({A_CONFIRMED}::text, {A_CANCELLED}::text);
insert into retired_charges values ('captured', 'EUR', 1, 200, now() - interval '90 days');
"""


@pytest.fixture
def shop(database: str) -> Iterator[dict[str, Database]]:
    """All four services' tables with consistent orders."""
    with all_services(database) as opened:
        yield opened


def looked(shop: Mapping[str, Database], looks: int) -> RecordedLooks:
    """What a new reconciler records in so many looks."""
    found, recorded = reconciler(shop)
    for _ in range(looks):
        found.run_once()
    return recorded


def test_looks_at_consistent_databases_find_nothing(shop: dict[str, Database], database: str) -> None:
    for statement in ("select 1", ENDED_RECENTLY):
        change(database, statement)
        assert looked(shop, 3).wrong == {}


def found_in(shop: Mapping[str, Database], names: Collection[str], prepare: str = "") -> dict[str, set[str]]:
    """What the first and the second look report about each corruption; each is rolled back."""
    found = {}
    for name in names:
        with shop["orders"].transaction() as transaction:
            transaction.run_script(f"{prepare};{CORRUPTIONS[name][0]}")
            first, second = looked(shop, 2).reported
            assert first <= {"stuck"}, name
            found[name] = second
            raise psycopg.Rollback
    return found


def missed(found: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The corruptions that were not found as what they are."""
    expected = {name: FOUND_AS.get(name, CORRUPTIONS[name][1]) for name in found}
    return {name: parts for name, parts in found.items() if NUMBERS.get(expected[name], expected[name]) not in parts}


def test_the_sweep_finds_every_corruption_and_reports_it_at_the_second_look(shop: dict[str, Database]) -> None:
    assert missed(found_in(shop, CORRUPTIONS)) == {}


def test_a_corruption_of_an_order_that_ended_recently_is_found_without_the_sweep(
    shop: dict[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sweep, "pages", lambda *_, **__: iter(()))
    assert missed(found_in(shop, CORRUPTIONS.keys() - NOT_IN_A_WINDOW, ENDED_RECENTLY)) == {}
    found = found_in(shop, NOT_IN_A_WINDOW, ENDED_RECENTLY)
    assert found == {name: set() for name in NOT_IN_A_WINDOW}


def test_an_order_that_ends_is_compared_once_it_must_be_committed_and_again_after_the_grace(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sweep, "pages", lambda *_, **__: iter(()))
    change(database, CORRUPTIONS["a confirmed order was never charged"][0])
    change(database, CORRUPTIONS["the customer was not notified of the end of an order"][0])
    found, recorded = reconciler(shop)
    found.run_once()
    for age, expected in (
        (30, set()),
        (90, {"charge_mismatches"}),
        (660, {"charge_mismatches", "missing_notifications"}),
    ):
        change(database, f"update orders set final_at = now() - interval '{age} s' where final_at is not null")
        found.run_once()
        found.run_once()
        assert set(recorded.wrong) == expected


def test_a_finding_vanishes_when_it_is_mended(shop: dict[str, Database], database: str) -> None:
    change(database, f"update charges set state = 'refunded' where order_id = {A_CONFIRMED}")
    change(database, "update stock set available = available + 2, on_hand = on_hand + 2")
    found, recorded = reconciler(shop)
    found.run_once()
    found.run_once()
    assert recorded.wrong == {"charge_mismatches": 1, "ledger_drift_units": 2}
    change(database, f"update charges set state = 'captured' where order_id = {A_CONFIRMED}")
    change(database, "update stock set available = available - 2, on_hand = on_hand - 2")
    found.run_once()
    assert recorded.wrong == {}


def test_a_finding_of_the_sweep_is_compared_at_each_look_wherever_the_sweep_is(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_ROWS", 7)
    change(database, CORRUPTIONS["a confirmed order was never charged"][0])
    found, recorded = reconciler(shop, clock=OnePage())
    for _ in range(5):
        found.run_once()
    assert [run.charge_mismatches for run in recorded.found] == [0, 1, 1, 1, 1]
    assert recorded.found[-1].sweep_age_seconds > 5  # no pass has ended yet


def test_two_orders_that_share_a_charge_are_found_in_different_pages(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_ROWS", 7)
    change(database, "update charges set charge_id = 'c-1' where charge_id = 'c-60'")
    found, recorded = reconciler(shop, clock=OnePage())
    for _ in range(60 // 7 + 1 + 2):
        found.run_once()
    assert recorded.wrong == {"duplicate_charges": 2}


def test_a_failed_look_reports_no_numbers_and_its_pages_are_read_again(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sweep, "pages", lambda *_, **__: iter(()))
    change(database, ENDED_RECENTLY)
    change(database, CORRUPTIONS["the customer was not notified of the end of an order"][0])
    failing = Failing(database)
    found, recorded = reconciler(shop | {"notifications": failing})
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            found.run_once()
    assert (recorded.found, recorded.failures, found.has_run) == ([], 3, False)
    failing.fails = False
    found.run_once()
    found.run_once()
    assert recorded.wrong == {"missing_notifications": 1}
    failing.close()


class Failing(Database):
    """A database that fails until it is told not to."""

    fails = True

    @contextmanager
    def transaction(self, *, limited: bool = True) -> Generator[SqlTransaction]:
        if self.fails:
            raise DatabaseUnavailable("gone")
        with super().transaction(limited=limited) as open_transaction:
            yield open_transaction


def test_a_late_movement_of_an_old_order_is_no_drift(shop: dict[str, Database], database: str) -> None:
    found, recorded = reconciler(shop)
    found.run_once()
    change(
        database,
        f"insert into stock_ledger select 'a', {A_CONFIRMED}, 'release', 2, 0, -2, now();"
        f"update reservations set state = 'released' where order_id = {A_CONFIRMED};"
        "update stock set available = available + 2, sold = sold - 2",
    )
    found.run_once()
    found.run_once()
    assert recorded.wrong == {"stock_mismatches": 1}  # the order is still confirmed


def test_a_line_committed_long_after_its_time_is_no_drift(shop: dict[str, Database], database: str) -> None:
    """The sums of the ledger are already beyond its time, so everything is added up again before it is reported."""
    found, recorded = reconciler(shop)
    found.run_once()
    change(
        database,
        "insert into stock_ledger values ('a', null, 'put', 10, 0, 0, now() - interval '1 hour');"
        "update stock set available = available + 10, on_hand = on_hand + 10",
    )
    for _ in range(4):
        found.run_once()
        assert recorded.wrong == {}


def test_drift_waits_until_the_ledger_is_added_up_again(
    shop: dict[str, Database], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_sums, "_ROWS", 30)  # 60 orders have about 100 lines
    found, recorded = reconciler(shop, clock=OnePage())
    again = [found.run_once() for _ in range(6)]
    assert again[0] and not again[-1]
    assert recorded.found[0].ledger_drift_units is None
    assert recorded.found[0].oversold_units is None
    change(database, "update stock set available = available + 3, on_hand = on_hand + 3")
    drift = []
    for _ in range(8):
        found.run_once()
        drift.append(recorded.found[-1].ledger_drift_units)
    assert drift[:3] == [0, 0, 0]
    assert drift[-1] == 3


def test_what_retention_deleted_is_no_finding(shop: dict[str, Database], database: str) -> None:
    change(database, "update stock_ledger set at = at - interval '1 year'")
    found, recorded = reconciler(shop)
    found.run_once()
    change(database, RETIRE)
    for _ in range(3):
        found.run_once()
    assert recorded.wrong == {}  # the sums from before the deletion are still right
    assert looked(shop, 3).wrong == {}
    assert [check.promise for check in integrity(shop).checks() if not check.kept] == []
    change(database, "delete from retired_charges")
    assert {"charge_mismatches", "stock_mismatches"} <= set(looked(shop, 2).wrong)
    assert "ledger_drift_units" not in looked(shop, 2).wrong
