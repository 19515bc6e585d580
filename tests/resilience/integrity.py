# SPDX-License-Identifier: Apache-2.0
"""Finds lost, doubled and oversold orders, in the tables that every build has and in the provider's ledger."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from local.demo.load_generator import LoadRecord
from local.eventually import eventually
from local.http_json import http_json
from local.system import System

_FINAL = ("confirmed", "rejected", "cancelled")
_ORDERS = """
select order_id::text, status, total_amount,
       (select sum((line->>'quantity')::int) from jsonb_array_elements(items) as line)::int
from orders
"""
_NOTIFIED = "select subject, count(*) from notifications where kind like 'order_%' group by 1"
_STOCK = "select sku, on_hand, available, reserved, sold from stock"


class _Stored(NamedTuple):
    status: str
    amount: int
    units: int


def broken(system: System, record: LoadRecord, *, seconds: float) -> list[str]:
    """Every broken promise, one sentence each; refunds, sales and notifications may follow for that many seconds."""
    found: list[str] = []

    def none_left() -> bool:
        found[:] = _violations(system, record)
        return not found

    with suppress(TimeoutError):
        eventually(none_left, seconds, pause=0.5)
    return found


def _violations(system: System, record: LoadRecord) -> Iterator[str]:
    orders = {order_id: _Stored(*columns) for order_id, *columns in _rows(system, "orders", _ORDERS)}
    yield from _numbers(
        lost=len(record.accepted.keys() - orders.keys()),
        open=sum(order.status not in _FINAL for order in orders.values()),
        # An order whose response was lost may be stored.
        stored_but_not_accepted=max(0, len(orders.keys() - record.accepted.keys()) - len(record.unknown)),
    )
    yield from _stock(system, orders)
    yield from _charges(system, orders)
    notified = dict(_rows(system, "notifications", _NOTIFIED))
    yield from _numbers(
        without_notification=len(orders.keys() - notified.keys()),
        notified_twice=sum(count > 1 for count in notified.values()),
    )


def _stock(system: System, orders: Mapping[str, _Stored]) -> Iterator[str]:
    stock = _rows(system, "inventory", _STOCK)
    sold = sum(row[4] for row in stock)
    confirmed = sum(order.units for order in orders.values() if order.status == "confirmed")
    yield from _numbers(
        SKUs_oversold=sum(min(row[2:]) < 0 or sum(row[2:]) != row[1] for row in stock),
        units_still_reserved=sum(row[3] for row in stock),
        units_sold_and_not_confirmed=max(0, sold - confirmed),
        units_confirmed_and_not_sold=max(0, confirmed - sold),
    )


def _charges(system: System, orders: Mapping[str, _Stored]) -> Iterator[str]:
    _, ledger = http_json("GET", f"{system.simulator}/v1/ledger", timeout_seconds=60)
    refunded = {refund["charge_id"] for refund in ledger["refunds"]}
    captured = [charge for charge in ledger["charges"] if charge["status"] == "captured"]
    kept = {charge["reference"]: charge["amount"] for charge in captured if charge["charge_id"] not in refunded}
    times = Counter(charge["reference"] for charge in captured)
    wanted = {order_id: order.amount for order_id, order in orders.items() if order.status == "confirmed"}
    yield from _numbers(
        charged_twice=sum(count > 1 for count in times.values()),
        charged_and_not_confirmed=len(kept.keys() - wanted.keys()),
        confirmed_and_not_charged=sum(kept.get(order_id) != amount for order_id, amount in wanted.items()),
    )


def _numbers(**counts: int) -> Iterator[str]:
    yield from (f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)


def _rows(system: System, service: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(system.databases[service]) as connection:
        return connection.execute(query.encode()).fetchall()
