# SPDX-License-Identifier: Apache-2.0
"""Each failure of a sale breaks its own promise, and no other."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from local.demo.load_generator import LoadRecord
from local.demo.promises import Evidence, judged

ORDERS = {"a": ("confirmed", 100), "b": ("confirmed", 100), "c": ("rejected", 50), "d": ("cancelled", 70)}
CHECK = {"promise": "nothing is oversold", "numbers": "0 units", "kept": True}
GOOD = Evidence(
    load=LoadRecord(sent=1000, accepted=dict.fromkeys(ORDERS, "ok")),
    planted=["not_json", "not_json", "too_large"],
    orders=ORDERS,
    charged={"a": [100], "b": [100]},
    dead=Counter(not_json=2, too_large=1),
    failures={},
    checks=[CHECK],
)


def broken(found: Evidence) -> set[str]:
    return {promise.text for promise in judged(found) if not promise.kept}


def load(**changes: object) -> Evidence:
    return replace(GOOD, load=replace(GOOD.load, **changes))  # type: ignore[arg-type]


def test_a_good_sale_keeps_every_promise() -> None:
    assert broken(GOOD) == set()


STORED, CHARGED = "what is stored is what was accepted", "the provider charged only confirmed orders"
POISON = "malformed messages are dead letters with their reason"


@pytest.mark.parametrize(
    ("found", "promise"),
    [
        (load(accepted=dict.fromkeys([*ORDERS, "lost"], "ok")), STORED),
        (load(accepted=dict.fromkeys("abc", "ok")), STORED),
        (load(accepted=dict.fromkeys(["a", "b", "c", "lost"], "ok")), STORED),
        (load(broken_promises=["k"]), "a repeated key gets the same response"),
        (load(unknown=["k"]), "every request got a response"),
        (replace(GOOD, orders={**ORDERS, "c": ("reserved", 50)}), "every order is final"),
        (replace(GOOD, charged={"a": [100], "b": [100, 100]}), CHARGED),
        (replace(GOOD, charged={"a": [100], "b": [99]}), CHARGED),
        (replace(GOOD, charged={"a": [100]}), CHARGED),
        (replace(GOOD, charged={"a": [100], "b": [100], "c": [50]}), CHARGED),
        (replace(GOOD, charged={"a": [100], "b": [100], "unknown": [1]}), CHARGED),
        (replace(GOOD, failures={"orders": [1]}), "no process failed"),
        (replace(GOOD, dead=Counter(not_json=3)), POISON),
        (replace(GOOD, dead=Counter(), planted=[]), POISON),
        (replace(GOOD, checks=[CHECK | {"kept": False}]), "nothing is oversold"),
    ],
)
def test_a_failure_breaks_its_own_promise(found: Evidence, promise: str) -> None:
    assert broken(found) == {promise}


@pytest.mark.parametrize("status", [lambda _: "rejected", lambda order: "cancelled" if order != "a" else "confirmed"])
def test_a_sale_with_few_confirmed_orders_breaks_its_promise(status: Callable[[str], str]) -> None:
    orders = {order: (status(order), amount) for order, (_, amount) in ORDERS.items()}
    charged = {order: [amount] for order, (found, amount) in orders.items() if found == "confirmed"}
    assert broken(replace(GOOD, orders=orders, charged=charged)) == {"most orders are confirmed"}


def test_a_sale_that_refuses_every_order_breaks_its_promise() -> None:
    nothing = replace(GOOD, load=LoadRecord(sent=1000), orders={}, charged={})
    assert broken(nothing) == {"most orders are confirmed"}


def test_an_order_whose_response_was_lost_may_be_stored() -> None:
    found = load(accepted=dict.fromkeys("abc", "ok"), unknown=["k"])
    assert broken(found) == {"every request got a response"}
