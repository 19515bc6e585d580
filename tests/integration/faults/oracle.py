# SPDX-License-Identifier: Apache-2.0
"""Looks for broken promises after the fact, from sources that do not depend on each other.

The crowd's own book, the four databases, the provider's ledger, the broker's queues, and a witness of every event.
Each violation is one sentence; no violation is an empty list.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from local.driver import Ledger
from local.system import System
from orderflow.messaging.dead_letter import DEAD_LETTER_QUEUE
from orderflow.services import SERVICES
from orderflow.topology import definitions
from tests.integration.faults import tap

FINAL = {"confirmed": "ORDER_CONFIRMED", "rejected": "ORDER_REJECTED", "cancelled": "ORDER_CANCELLED"}
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the sources say once everything is quiet."""

    system: System
    ledger: Ledger
    initial: Mapping[str, int]
    poison: Counter[str]
    """Reason to number of the poison messages that were planted."""
    copies: int = 1
    """How often the same dead letter may be there, when every message was delivered that often."""


def settle(system: System, *, seconds: float) -> list[str]:
    """Wait until no order is open, no work waits in a queue and no outbox has a row; what is left after that."""
    deadline = time.monotonic() + seconds
    while left := [*_open_orders(system), *_waiting(system), *_unpublished(system)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.5)
    return []


def violations(evidence: Evidence) -> list[str]:
    """Every promise that the evidence shows to be broken."""
    orders = {
        row[0]: row[1:]
        for row in _rows(evidence.system, "orders", "select order_id::text, status, total_amount, items from orders")
    }
    return [
        *_lost(evidence, orders),
        *_backwards(evidence.system),
        *_stock(evidence, orders),
        *_charges(evidence.system, orders),
        *_notifications(evidence.system, orders),
        *_witnessed(evidence.system, orders),
        *_parked(evidence),
    ]


def _lost(evidence: Evidence, orders: Mapping[str, Any]) -> Iterator[str]:
    for order_id in evidence.ledger.accepted:
        if order_id not in orders:
            yield f"lost: order {order_id} was accepted and is not stored"
    for order_id, (status, *_) in orders.items():
        if status not in FINAL:
            yield f"lost: order {order_id} is still {status}"
    for key in evidence.ledger.broken_promises:
        yield f"doubled: the idempotency key {key} got two different answers"
    if len(orders) > len(evidence.ledger.accepted) + len(evidence.ledger.unknown):
        yield f"doubled: {len(orders)} orders are stored, {len(evidence.ledger.accepted)} were accepted"


def _backwards(system: System) -> Iterator[str]:
    for order_id, statuses in _rows(
        system, "orders", "select order_id::text, array_agg(status order by at) from order_history group by 1"
    ):
        if sum(status in FINAL for status in statuses) > 1:
            yield f"doubled: order {order_id} ended more than once: {statuses}"


def _stock(evidence: Evidence, orders: Mapping[str, Any]) -> Iterator[str]:
    sold: Counter[str] = Counter()
    for status, _, items in orders.values():
        if status == "confirmed":
            for line in items:
                sold[line["sku"]] += line["quantity"]
    moved = {
        sku: sums
        for sku, *sums in _rows(
            evidence.system,
            "inventory",
            "select sku, sum(d_available), sum(d_reserved), sum(d_sold) from stock_ledger group by 1",
        )
    }
    for sku, *counted in _rows(evidence.system, "inventory", "select sku, available, reserved, sold from stock"):
        if min(counted) < 0 or sold[sku] > evidence.initial[sku]:
            yield f"oversold: {sku} has {counted}, {sold[sku]} of {evidence.initial[sku]} sold"
        if counted != [evidence.initial[sku] - sold[sku], 0, sold[sku]]:
            yield f"drift: {sku} has {counted}, confirmed orders took {sold[sku]} of {evidence.initial[sku]}"
        if counted != [int(part) for part in moved[sku]]:
            yield f"drift: {sku} has {counted}, its ledger says {moved[sku]}"


def _charges(system: System, orders: Mapping[str, Any]) -> Iterator[str]:
    charged: dict[str, list[int]] = defaultdict(list)
    refunded: set[str] = set()
    for line in (system.directory / "simulator.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "refund":
            refunded.add(record["reference"])
        elif record["status"] == "captured":
            charged[record["reference"]].append(record["amount"])
    for order_id, (status, amount, _) in orders.items():
        kept = charged[order_id] if order_id not in refunded else []
        if len(charged[order_id]) > 1:
            yield f"doubled: order {order_id} was charged {len(charged[order_id])} times"
        if kept != ([amount] if status == "confirmed" else []):
            yield f"money: order {order_id} is {status} over {amount}, charged and kept {kept}"


def _notifications(system: System, orders: Mapping[str, Any]) -> Iterator[str]:
    told: Counter[tuple[str, str]] = Counter()
    for subject, kind in _rows(system, "notifications", "select subject, kind from notifications"):
        told[subject, kind] += 1
    for order_id, (status, *_) in orders.items():
        count = told[order_id, f"order_{status}"]
        if count != 1:
            yield f"{'lost' if not count else 'doubled'}: {count} notifications that order {order_id} is {status}"


def _witnessed(system: System, orders: Mapping[str, Any]) -> Iterator[str]:
    """Every event of an order was published under one message id, and the end that was decided was told."""
    seen = tap.witnessed(system.admin_url)
    for (order_id, event), ids in seen.items():
        if order_id in orders and len(ids) > 1:
            yield f"doubled: {event} of order {order_id} was published under {len(ids)} message ids"
    for order_id, (status, *_) in orders.items():
        for event in ("ORDER_CREATED", FINAL.get(status, "")):
            if event and (order_id, event) not in seen:
                yield f"lost: {event} of order {order_id} was never routed"


def _parked(evidence: Evidence) -> Iterator[str]:
    listed = json.loads(evidence.system.run_tool("dead-letters", "list", "--limit", "100000", "--json"))["dead_letters"]
    ids: dict[str, set[str]] = defaultdict(set)
    for number, letter in enumerate(listed):
        ids[letter["reason"]].add(letter["message_id"] or f"none-{number // evidence.copies}")
    parked = Counter({reason: len(those) for reason, those in ids.items()})
    if parked != evidence.poison:
        yield f"dead letters: {dict(parked)}, planted were {dict(evidence.poison)}"


def _open_orders(system: System) -> Iterator[str]:
    query = "select status, count(*) from orders where status not in ('confirmed', 'rejected', 'cancelled') group by 1"
    for status, count in _rows(system, "orders", query):
        yield f"not settled: {count} orders are {status}"


def _waiting(system: System) -> Iterator[str]:
    names = {queue.name for queue in definitions(SERVICES, vhost=system.vhost).queues} - {DEAD_LETTER_QUEUE}
    with tap.channel(system.admin_url) as channel:
        for name in sorted(names):
            count = channel.queue_declare(name, passive=True).method.message_count
            if count:
                yield f"not settled: {count} messages wait in {name}"


def _unpublished(system: System) -> Iterator[str]:
    for service in SERVICES:
        ((count,),) = _rows(system, service.name, "select count(*) from outbox")
        if count:
            yield f"not settled: {count} rows in the outbox of {service.name}"


def _rows(system: System, service: str, query: str) -> Rows:
    with psycopg.connect(system.databases[service]) as connection:
        return connection.execute(query.encode()).fetchall()
