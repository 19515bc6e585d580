# SPDX-License-Identifier: Apache-2.0
"""Only what two runs found counts; each promise is checked by its own numbers."""

from dataclasses import replace

from orderflow.instrumentation import Stuck
from orderflow.operations.reconciler.integrity import Integrity, Stock

CONSISTENT = Integrity(
    orders={"confirmed": 2, "rejected": 1, "accepted": 1},
    stock=Stock(put=10, on_hand=10, available=7, reserved=1, sold=2),
    captured=2,
    captured_amount=400,
    confirmed_amount=400,
)


def broken(found: Integrity) -> list[str]:
    return [check.promise for check in found.checks() if not check.kept]


def test_consistent_databases_keep_every_promise() -> None:
    assert broken(CONSISTENT) == []
    assert not CONSISTENT.suspicious
    assert (CONSISTENT.total, CONSISTENT.open) == (4, 1)
    assert CONSISTENT.checks()[0].numbers == "4 = 2 + 1 + 0 + 1 open"


def test_only_what_both_runs_found_is_confirmed() -> None:
    first = replace(CONSISTENT, drift={"a": 5, "b": 1}, charge_mismatches=frozenset({"1", "2"}))
    second = replace(CONSISTENT, drift={"a": 2, "c": 9}, charge_mismatches=frozenset({"2", "3"}))
    confirmed = second.confirmed_by(first)
    assert (confirmed.drift, confirmed.charge_mismatches) == ({"a": 2}, frozenset({"2"}))
    assert confirmed.reconciliation().ledger_drift_units == 2


def test_a_single_run_confirms_only_stuck_orders() -> None:
    stuck = {"reserved": Stuck(orders=3, oldest_seconds=99)}
    found = replace(CONSISTENT, oversold={"a": 1}, ended_twice=frozenset({"1"}), stuck=stuck)
    confirmed = found.confirmed_by(None)
    assert broken(confirmed) == ["no order is stuck"]
    assert confirmed.reconciliation().stuck == stuck


def test_each_fault_breaks_its_own_promise() -> None:
    one = frozenset({"1"})
    assert broken(replace(CONSISTENT, ended_twice=one)) == ["every order has one end, or is still open"]
    assert broken(replace(CONSISTENT, orders={"lost": 1})) == ["every order has one end, or is still open"]
    assert broken(replace(CONSISTENT, stock=replace(CONSISTENT.stock, available=8))) == ["stock is conserved"]
    assert broken(replace(CONSISTENT, oversold={"a": 1})) == ["nothing is oversold"]
    assert broken(replace(CONSISTENT, charge_mismatches=one)) == ["charges = confirmed orders"]
    assert broken(replace(CONSISTENT, duplicate_charges=one)) == ["no order is charged or notified twice"]
    assert broken(replace(CONSISTENT, duplicate_notifications=one)) == ["no order is charged or notified twice"]
    assert broken(replace(CONSISTENT, stock_mismatches=one)) == ["every reservation fits its order"]
    assert broken(replace(CONSISTENT, stale_availability=one)) == ["the orders API has the current stock"]
    assert broken(replace(CONSISTENT, missing_notifications=one)) == ["every final order is notified"]


def test_a_broken_promise_names_a_few_of_those_that_it_is_about() -> None:
    orders = frozenset(f"{number:02}" for number in range(99))
    (check,) = [check for check in replace(CONSISTENT, charge_mismatches=orders).checks() if not check.kept]
    assert check.examples == tuple(f"{number:02}" for number in range(10))
