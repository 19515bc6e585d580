# SPDX-License-Identifier: Apache-2.0
"""Finds broken promises from sources that do not depend on each other.

The sources are the load generator's record, the four databases, the provider's ledger, the broker's queues and a
recorder of every event. Each violation is one sentence; an empty list means that there is none.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from local.demo.load_generator import LoadRecord
from local.system import System
from orderflow.messaging.consume.settlement import DEAD_LETTER_QUEUE
from orderflow.messaging.event import event_type
from orderflow.operations.management_api import Management
from orderflow.services import SERVICES
from tests.integration.faults import event_recorder
from tests.integration.faults.event_recorder import EventRecorder

FINAL = {"confirmed": "ORDER_CONFIRMED", "rejected": "ORDER_REJECTED", "cancelled": "ORDER_CANCELLED"}
_NAMELESS = {"missing_message_id", "invalid_message_id"}
"""Reasons of dead letters without an id that distinguishes them."""
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The sources, once the system has settled."""

    system: System
    recorder: EventRecorder
    record: LoadRecord
    initial: Mapping[str, int]
    poison: Counter[str]
    """Reason to number of the poison messages that were planted."""


def settle(evidence: Evidence, *, seconds: float, still_seconds: float = math.inf) -> list[str]:
    """Wait until nothing is left to do: no open order or charge, no waiting message or outbox row, no unhandled event.

    Returns what is left after that time. Returns earlier when no work is in progress and what is left has not changed
    for ``still_seconds``, because then it is lost and not late. A queue's depth does not include what its consumer
    holds, so every recorded event must be in the inbox of each queue bound to it, and all poison must be dead-lettered.
    """
    began = since = time.monotonic()
    before: list[str] = []
    while left := (moving := [*_moving(evidence.system)]) + ([*_open(evidence.system)] or _unfinished(evidence)):
        now = time.monotonic()
        since = since if left == before else now
        if now - began > seconds or (not moving and now - since > still_seconds):
            return left
        before = left
        time.sleep(0.5)  # not ``eventually``: what is left is a result here, and two looks are compared
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
        *_recordered(evidence.recorder, orders),
        *_dead_letters(evidence),
    ]


def _lost(evidence: Evidence, orders: Mapping[str, Any]) -> Iterator[str]:
    for order_id in evidence.record.accepted:
        if order_id not in orders:
            yield f"lost: order {order_id} was accepted and is not stored"
    for order_id, (status, *_) in orders.items():
        if status not in FINAL:
            yield f"lost: order {order_id} is still {status}"
    for key in evidence.record.broken_promises:
        yield f"doubled: the idempotency key {key} got two different responses"
    if len(orders) > len(evidence.record.accepted) + len(evidence.record.unknown):
        yield f"doubled: {len(orders)} orders are stored, {len(evidence.record.accepted)} were accepted"


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
    notified: Counter[tuple[str, str]] = Counter()
    for subject, kind in _rows(system, "notifications", "select subject, kind from notifications"):
        notified[subject, kind] += 1
    for order_id, (status, *_) in orders.items():
        count = notified[order_id, f"order_{status}"]
        if count != 1:
            yield f"{'lost' if not count else 'doubled'}: {count} notifications that order {order_id} is {status}"


def _recordered(recorder: EventRecorder, orders: Mapping[str, Any]) -> Iterator[str]:
    """Every event of an order must have one message id, and the event of its final state must have been routed."""
    seen = recorder.seen
    for (order_id, event), ids in seen.items():
        if order_id in orders and len(ids) > 1:
            yield f"doubled: {event} of order {order_id} was published under {len(ids)} message ids"
    for order_id, (status, *_) in orders.items():
        for event in ("ORDER_CREATED", FINAL.get(status, "")):
            if event and (order_id, event) not in seen:
                yield f"lost: {event} of order {order_id} was never routed"


def _dead_letters(evidence: Evidence) -> Iterator[str]:
    listed = json.loads(evidence.system.run_tool("dead-letters", "list", "--limit", "100000", "--json"))["dead_letters"]
    ids: dict[str, set[str]] = defaultdict(set)
    for number, letter in enumerate(listed):
        ids[letter["reason"]].add(f"none-{number}" if letter["reason"] in _NAMELESS else letter["message_id"])
    counted = Counter({reason: len(those) for reason, those in ids.items()})
    if counted != evidence.poison:
        yield f"dead letters: {dict(counted)}, planted were {dict(evidence.poison)}"


def _open(system: System) -> Iterator[str]:
    """Orders that have not ended."""
    for status, count in _rows(system, "orders", "select status, count(*) from orders group by 1"):
        if status not in FINAL:
            yield f"not settled: {count} orders are {status}"


def _moving(system: System) -> Iterator[str]:
    """Work in progress: charges with a call that is due, events that are not published, messages in queues."""
    # A row with due_at has a call that is due or in flight. Cancelled charges also have one: they are looked up again.
    due = "select state, count(*) from charges where due_at is not null and state <> 'cancelled' group by 1"
    for state, count in _rows(system, "payments", due):
        yield f"not settled: {count} charges are {state}"
    for service in SERVICES:
        ((count,),) = _rows(system, service.name, "select count(*) from outbox")
        if count:
            yield f"not settled: {count} rows in the outbox of {service.name}"
    queues = json.loads(Management(system.stack.rabbitmq.management_url).get("queues", system.vhost))
    for name in sorted({queue["name"] for queue in queues} - {DEAD_LETTER_QUEUE, event_recorder.QUEUE}):
        if waiting := depth(system, name):
            yield f"not settled: {waiting} messages wait in {name}"


def _unfinished(evidence: Evidence) -> list[str]:
    """Messages that are not handled and in no queue: a consumer still holds them, or they are lost."""
    evidence.recorder.collect()
    found = [*_unhandled(evidence)]
    dead, planted = depth(evidence.system, DEAD_LETTER_QUEUE), evidence.poison.total()
    if dead < planted:
        found.append(f"not settled: {dead} of {planted} malformed messages are dead letters")
    return found


def _unhandled(evidence: Evidence) -> Iterator[str]:
    for service in SERVICES:
        handled: dict[str, set[str]] = defaultdict(set)
        for queue, message_id in _rows(evidence.system, service.name, "select queue, message_id::text from inbox"):
            handled[queue].add(message_id)
        for queue in service.queues:
            for event in map(event_type, queue.events):
                if missed := evidence.recorder.ids(event) - handled[queue.name]:
                    yield f"lost: {len(missed)} {event} were routed, and {queue.name} has not handled them"


def depth(system: System, queue: str) -> int:
    """The messages that wait in a queue."""
    with event_recorder.channel(system.admin_url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def _rows(system: System, service: str, query: str) -> Rows:
    with psycopg.connect(system.databases[service]) as connection:
        return connection.execute(query.encode()).fetchall()
