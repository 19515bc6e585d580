# SPDX-License-Identifier: Apache-2.0
"""Checks whether a sale kept every promise, from independent records.

The records are those of the databases, the payment provider, the broker and the load generator.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.demo.load_generator import LoadRecord
from local.demo.sale import FINAL, Sale
from local.http_json import http_json
from orderflow.messaging.postgres.database import Database

_ORDERS = "select order_id::text, status, total_amount from orders"
_POISON_FROM = 200
"""From this many orders on, a sale must have published malformed messages."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, the numbers that it rests on, and whether it is kept."""

    text: str
    numbers: str
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The records of a sale, each from its own source."""

    load: LoadRecord
    """What the load generator sent, and the responses."""
    planted: Sequence[str]
    """The reasons with which the malformed messages must be dead-lettered."""
    orders: Mapping[str, tuple[str, int]]
    """Status and amount of every stored order, by id."""
    charged: Mapping[str, Sequence[int]]
    """What the provider charged for each order and did not refund."""
    dead: Counter[str]
    """Dead letters by reason."""
    failures: Mapping[str, Sequence[int]]
    """Exit codes of processes that ended by themselves."""
    checks: Sequence[Mapping[str, Any]]
    """What ``orderflow reconcile`` found."""


def gather(sale: Sale) -> Evidence:
    """Read every source now."""
    system = sale.system
    database = Database(system.databases["orders"], application_name="promises")
    try:
        with database.transaction() as transaction:
            orders = {order_id: (status, amount) for order_id, status, amount in transaction.execute(_ORDERS)}
    finally:
        database.close()
    _, ledger = http_json("GET", f"{system.simulator}/v1/ledger")
    return Evidence(
        load=sale.record,
        planted=sale.planted,
        orders=orders,
        charged=_kept_charges(ledger),
        dead=dead_letters(sale),
        failures=system.failures(),
        checks=json.loads(system.run_tool("reconcile", "--json", "--grace", "0"))["checks"],
    )


def dead_letters(sale: Sale) -> Counter[str]:
    """Dead letters by reason."""
    listed = json.loads(sale.system.run_tool("dead-letters", "list", "--limit", "100000", "--json"))
    return Counter(letter["reason"] for letter in listed["dead_letters"])


def judged(found: Evidence) -> list[Promise]:
    """Every promise."""
    return [*_of_the_load(found), *_of_the_system(found), *(_checked(check) for check in found.checks)]


def _of_the_load(found: Evidence) -> Iterator[Promise]:
    accepted, stored = found.load.accepted.keys(), found.orders.keys()
    lost, extra = len(accepted - stored), len(stored - accepted)
    yield Promise(
        "what is stored is what was accepted",
        f"{len(accepted)} accepted, {len(stored)} stored, {lost} lost, {extra} extra",
        # An order whose response was lost may be stored.
        not lost and extra <= len(found.load.unknown),
    )
    unknown, differing = len(found.load.unknown), len(found.load.broken_promises)
    yield Promise("every request got a response", f"{unknown} without", not unknown)
    yield Promise("a repeated key gets the same response", f"{differing} differ", not differing)


def _of_the_system(found: Evidence) -> Iterator[Promise]:
    statuses = Counter(status for status, _ in found.orders.values())
    final, confirmed = sum(statuses[status] for status in FINAL), statuses["confirmed"]
    yield Promise("every order is final", f"{final} of {len(found.orders)}", final == len(found.orders))
    yield Promise(
        "most orders are confirmed", f"{confirmed} confirmed", confirmed > 0 and 2 * confirmed >= len(found.orders)
    )
    wrong = sum(
        list(found.charged.get(order_id, ())) != ([amount] if status == "confirmed" else [])
        for order_id, (status, amount) in found.orders.items()
    ) + len(found.charged.keys() - found.orders.keys())
    yield Promise(
        "the provider charged only confirmed orders", f"{len(found.charged)} charged, {wrong} wrong", not wrong
    )
    ended = ", ".join(f"{name}: {codes}" for name, codes in found.failures.items())
    yield Promise("no process failed", ended or "none", not found.failures)
    yield Promise(
        "malformed messages are dead letters with their reason",
        f"{found.dead.total()} of {len(found.planted)}",
        found.dead == Counter(found.planted) and (bool(found.planted) or found.load.sent < _POISON_FROM),
    )


def _checked(check: Mapping[str, Any]) -> Promise:
    return Promise(check["promise"], check["numbers"], check["kept"])


def _kept_charges(ledger: Mapping[str, Any]) -> dict[str, list[int]]:
    refunded = {refund["charge_id"] for refund in ledger["refunds"]}
    kept: dict[str, list[int]] = defaultdict(list)
    for charge in ledger["charges"]:
        if charge["status"] == "captured" and charge["charge_id"] not in refunded:
            kept[charge["reference"]].append(charge["amount"])
    return dict(kept)
