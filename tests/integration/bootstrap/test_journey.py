# SPDX-License-Identifier: Apache-2.0
"""One order through real processes: the functions that run are those of docs/journey.md."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.demo.sale import put_stock
from local.eventually import eventually
from local.servers.stack import Stack
from local.system import System
from orderflow.bootstrap.serve import MEANINGS
from tests.rigs.consumer import query
from tests.rigs.journey_page import linked_functions, named_files
from tests.rigs.system_orders import place_order

pytestmark = pytest.mark.integration

# The threads through which an order passes; the others (relay, periodic work, telemetry) also run without an order.
ITS_THREADS = ("http", "uvloop", "write orders", "broker", "consume", "charge", "notify")
OBSERVERS = ("telemetry/", "instrumentation.py", "messaging/instrumentation.py")
PERIODIC = ("messaging/rabbitmq/broker.py",)
"""Its tick runs twice a second, with or without an order."""


@pytest.fixture
def system(stack: Stack, tmp_path: Path) -> Iterator[System]:
    commands = {
        name: [sys.executable, "-m", "tests.rigs.profiled_process", str(tmp_path / name), "serve", name]
        for name in MEANINGS
    }
    environ = {"OTEL_TRACES_SAMPLER": "always_on"}
    with System.started(stack, tmp_path, name="journey", commands=commands, environ=environ) as started:
        yield started


def called(system: System, process: str, message: bytes) -> set[tuple[str, str]]:
    """File and name of the functions that a process called in the threads of an order."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(str(system.directory / f"{process}.reply"))
        control.settimeout(10)
        control.sendto(message, str(system.directory / process))
        found = json.loads(control.recv(1 << 20))
    (system.directory / f"{process}.reply").unlink()
    return {(path, function) for thread, path, function in found if thread.startswith(ITS_THREADS)}


def test_the_functions_that_one_order_runs_are_those_of_the_page(system: System) -> None:
    def holds(service: str, statement: str) -> bool:
        return bool(query(system.databases[service], statement))

    put_stock(system, {"a": 10})
    for process in MEANINGS:
        called(system, process, b"reset")
    place_order(system, "a")
    eventually(
        lambda: holds("notifications", "select where exists (select from notifications where state = 'sent')"),
        seconds=20,
        what="a notification",
    )
    eventually(lambda: holds("inventory", "select from stock where sold = 1"), seconds=20, what="a sale")

    # The last acknowledgement and the last confirm come after the last row.
    linked = {path for _, path in linked_functions()}
    wanted = {(path, function) for function, path in linked_functions()}
    seen: set[tuple[str, str]] = set()

    def all_ran() -> bool:
        seen.update(*(called(system, process, b"dump") for process in MEANINGS))
        return wanted <= seen

    try:
        eventually(all_ran, seconds=10, what="every function of the page")
    except TimeoutError:
        assert wanted - seen == set()
    files = {path for path, _ in seen if not path.startswith((*OBSERVERS, *PERIODIC))}
    assert files == linked | set(named_files("Other files that run"))
