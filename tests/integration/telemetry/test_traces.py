# SPDX-License-Identifier: Apache-2.0
"""One order is one connected trace, from the request to the notification, over retries and replays."""

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local.demo.journey import roots
from local.demo.sale import put_stock
from local.eventually import eventually
from local.http_json import http_json
from local.servers.stack import Stack
from local.system import System
from tests.rigs.system_orders import place_order

pytestmark = pytest.mark.integration

Span = Mapping[str, Any]
EVERYTHING = {"OTEL_TRACES_SAMPLER": "always_on", "ORDERFLOW_LAME_DUCK_SECONDS": "0", "OTEL_BSP_SCHEDULE_DELAY": "200"}


@pytest.fixture(scope="module")
def system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system whose inventory fails once for an order of 7 units, and cannot handle one of 9 until it is replayed."""
    folder = tmp_path_factory.mktemp("traces")
    failing = [sys.executable, "-m", "tests.rigs.failing_inventory", str(folder / "replay"), "serve", "inventory"]
    commands = {"inventory": failing}
    with System.started(stack, folder, environ=EVERYTHING, name="traces", commands=commands) as started:
        put_stock(started, {"a": 1000})
        yield started


def confirmed(system: System, order_id: str) -> bool:
    _, response = http_json("GET", f"{system.orders_api}/v1/orders/{order_id}", key=system.orders_key)
    return bool(response["status"] == "confirmed")


def trace(system: System, order_id: str, *, inventory: int) -> list[Span]:
    """All spans of an order's trace, once every process has exported its spans and no parent is missing.

    ``inventory`` is the number of messages of the order that inventory handles; it may sell after the notification.
    """
    found: list[Span] = []

    def complete() -> bool:
        _, ids = http_json("GET", f"{system.trace_store}/traces?attribute=orderflow.order_id={order_id}")
        found[:] = [
            span for trace_id in ids or () for span in http_json("GET", f"{system.trace_store}/traces/{trace_id}")[1]
        ]
        names = [(span["service"], span["name"]) for span in found]
        # Spans without children are exported at any time, and no parent is missing without them.
        worked = len(processed(found, "inventory_updates")) == inventory and len(processed(found, "order_updates")) == 2
        called = {("payments", "charge"), ("notifications", "notify")}.issubset(names)
        return worked and called and len(roots(found)) == 1

    try:
        eventually(complete, seconds=15, what="the whole trace")
    except TimeoutError:
        pytest.fail(f"spans: {sorted((span['service'], span['name']) for span in found)}, {len(roots(found))} roots")
    return found


def assert_connected(spans: list[Span]) -> None:
    assert len({span["trace_id"] for span in spans}) == 1
    (root,) = roots(spans)
    assert (root["service"], root["name"]) == ("orders-api", "POST /v1/orders")
    assert {span["service"] for span in spans} >= {"orders-api", "inventory", "payments", "orders", "notifications"}


def edges(spans: list[Span]) -> set[tuple[str, str]]:
    """Producer and consumer: what a service graph shows, from the consumers' spans whose parents are producers'."""
    known = {span["span_id"]: span for span in spans}
    consumed = [(known[span["parent_span_id"]], span) for span in spans if span["kind"] == "consumer"]
    return {(parent["service"], span["service"]) for parent, span in consumed if parent["kind"] == "producer"}


def processed(spans: list[Span], queue: str) -> list[Span]:
    return [span for span in spans if span["name"] == f"process {queue}"]


def test_an_order_is_one_connected_trace(system: System) -> None:
    order_id = place_order(system, "a", quantity=1)
    eventually(lambda: confirmed(system, order_id), seconds=20, what="the order is confirmed")
    spans = trace(system, order_id, inventory=2)  # reserved, then sold
    assert_connected(spans)
    assert edges(spans) == {
        ("orders-api", "inventory"),
        ("inventory", "payments"),
        ("inventory", "orders"),
        ("payments", "orders"),
        ("orders", "inventory"),
        ("orders", "notifications"),
    }
    assert len(processed(spans, "payment_requests")) == 1
    assert len(processed(spans, "order_updates")) == 2
    assert len(processed(spans, "notification_requests")) == 1
    assert [span["name"] for span in spans if span["service"] == "payments" and span["name"] == "charge"] == ["charge"]


def test_a_retry_stays_in_the_trace(system: System) -> None:
    order_id = place_order(system, "a", quantity=7)
    eventually(lambda: confirmed(system, order_id), seconds=20, what="the order is confirmed after a retry")
    spans = trace(system, order_id, inventory=3)  # failed, reserved, then sold
    assert_connected(spans)
    counts = [span["attributes"].get("orderflow.retry.count", 0) for span in processed(spans, "inventory_updates")]
    assert sorted(map(int, counts)) == [0, 0, 1]


def test_a_replay_stays_in_the_trace(system: System) -> None:
    order_id = place_order(system, "a", quantity=9)

    def dead_letters() -> list[dict[str, Any]]:
        listed = json.loads(system.run_tool("dead-letters", "list", "--order-id", order_id, "--json"))
        letters: list[dict[str, Any]] = listed["dead_letters"]
        return letters

    eventually(lambda: bool(dead_letters()), seconds=20, what="the message is dead-lettered", pause=0.5)
    (letter,) = dead_letters()
    assert (letter["reason"], letter["queue"]) == ("injected", "inventory_updates")
    Path(system.directory / "replay").touch()
    system.run_tool("dead-letters", "replay", letter["message_id"])
    eventually(lambda: confirmed(system, order_id), seconds=20, what="the order is confirmed after a replay")
    spans = trace(system, order_id, inventory=3)  # dead-lettered, reserved after the replay, then sold
    assert_connected(spans)
    assert [span["service"] for span in spans if span["service"] == "dead-letters"] == ["dead-letters"]
    assert dead_letters() == []


def marked(system: System, trace_id: str) -> bool:
    """Whether a trace is stored and marked as the trace of an exemplar, so that sampling keeps it."""
    status, spans = http_json("GET", f"{system.trace_store}/traces/{trace_id}")
    return status == 200 and any(span["attributes"].get("exemplar") for span in spans)


def test_exemplars_name_stored_traces(system: System) -> None:
    order_id = place_order(system, "a", quantity=1)
    eventually(lambda: confirmed(system, order_id), seconds=20, what="the order is confirmed")
    request = urllib.request.Request(
        f"http://127.0.0.1:{system.process_ports['orders'].telemetry}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        lines = response.read().decode().splitlines()
    assert lines[-1] == "# EOF"
    exemplars = [line.split('trace_id="')[1].split('"')[0] for line in lines if 'trace_id="' in line]
    assert exemplars
    for trace_id in sorted(set(exemplars)):
        eventually(partial(marked, system, trace_id), seconds=10, what=f"trace {trace_id} is stored and marked")
