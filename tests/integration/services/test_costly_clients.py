# SPDX-License-Identifier: Apache-2.0
"""Strangers send huge heads and hold thousands of connections, and one client sends too much: others are served."""

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from local.eventually import eventually
from local.http_json import http
from local.servers.stack import Stack
from local.system import System
from orderflow.http.open_files import connections_allowed

pytestmark = pytest.mark.integration

FLOOD_BYTES = 20_000_000
STRANGERS = 5000
CONNECTIONS = 300
OTHER_FILES = 100
"""More files than a process has open beside its connections."""
REQUEST_SECONDS = 5
BURST = 300
ORDER = {"user_id": "u", "items": [{"sku": "a", "quantity": 1}], "payment_token": "ok"}


@pytest.fixture(scope="module")
def system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environ = {
        "OTEL_SDK_DISABLED": "true",
        "ORDERFLOW_HTTP_CONNECTIONS": str(CONNECTIONS),
        "ORDERFLOW_HTTP_REQUEST_SECONDS": str(REQUEST_SECONDS),
        "ORDERFLOW_HTTP_RATE_LIMIT": "0.5",
        "ORDERFLOW_HTTP_RATE_BURST": str(BURST),
    }
    with System.started(stack, tmp_path_factory.mktemp("costly"), environ=environ, name="costly") as started:
        started.set_stock("a", 1000)
        client = HTTPConnection("127.0.0.1", started.process_ports["orders-api"].http, timeout=10)
        eventually(lambda: place_order(started, client)[0] == 202, seconds=20, what="the orders API knows the stock")
        client.close()
        yield started


def place_order(system: System, client: HTTPConnection) -> tuple[int, str]:
    """The status of the response and the order's id."""
    headers = {
        "Authorization": f"Bearer {system.orders_key}",
        "Idempotency-Key": str(uuid4()),
        "Content-Type": "application/json",
    }
    client.request("POST", "/v1/orders", body=json.dumps(ORDER), headers=headers)
    response = client.getresponse()
    return response.status, json.loads(response.read()).get("order_id", "")


def is_confirmed(system: System, order_id: str) -> bool:
    url, headers = f"{system.orders_api}/v1/orders/{order_id}", {"Authorization": f"Bearer {system.orders_key}"}
    return bool(http("GET", url, headers=headers).json()["status"] == "confirmed")


def open_files(system: System, process: str) -> int:
    return len(list(Path(f"/proc/{system.supervisor.pids()[process]}/fd").iterdir()))


def resident_bytes(system: System, process: str, field: str) -> int:
    """``VmRSS``, or its peak ``VmHWM`` since the last ``forget_peak``."""
    status = Path(f"/proc/{system.supervisor.pids()[process]}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak(system: System, process: str) -> None:
    Path(f"/proc/{system.supervisor.pids()[process]}/clear_refs").write_text("5")


def flood(port: int, start: bytes, part: bytes) -> tuple[int, int]:
    """Send a head of 20 MB; the bytes that the server took, and the status of its response (0 when it sent none)."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
        sent = 0
        try:
            stranger.sendall(start)
            while sent < FLOOD_BYTES:
                stranger.sendall(part)
                sent += len(part)
            stranger.sendall(b"\r\n\r\n")
        except ConnectionError:
            pass
        try:
            response = HTTPResponse(stranger)
            response.begin()
        except ConnectionError:
            return sent, 0
        return sent, response.status


@pytest.mark.parametrize("process", ["orders-api", "inventory-api"])
@pytest.mark.parametrize("part", [b"x" * 65_000, b"x: y\r\n" * 10_000], ids=["one header", "many headers"])
def test_a_head_of_20_megabytes_is_cut_off_and_kept_nowhere(system: System, process: str, part: bytes) -> None:
    port = system.process_ports[process].http
    forget_peak(system, process)
    before = resident_bytes(system, process, "VmRSS")
    sent, status = flood(port, b"GET /docs HTTP/1.1\r\nhost: a\r\nx: ", part)
    assert status in {0, 431}
    assert sent < FLOOD_BYTES
    assert resident_bytes(system, process, "VmHWM") - before < 4_000_000


def test_a_head_that_is_a_little_too_long_gets_431(system: System) -> None:
    response = http("GET", f"{system.orders_api}/docs", headers={"x": "x" * 17_000})
    assert (response.status_code, response.json()["type"]) == (431, "head-too-large")


def test_a_client_above_its_rate_limit_gets_429_and_others_are_served(system: System) -> None:
    url, headers = f"{system.inventory_api}/v1/stock/a", {"Authorization": f"Bearer {system.stock_key}"}
    with requests.Session() as client:
        responses = [client.get(url, headers=headers, timeout=10) for _ in range(BURST + 10)]
    refused = responses[-1]
    assert (refused.status_code, refused.json()["type"]) == (429, "quota-exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 2
    assert refused.headers["RateLimit"] == f'"default";r=0;t={refused.headers["Retry-After"]}'
    assert {response.headers["RateLimit-Policy"] for response in responses} == {f'"default";q={BURST};w={2 * BURST}'}
    with connected(system) as other:
        assert place_order(system, other)[0] == 202


def test_clients_are_served_while_5000_strangers_hold_idle_connections(system: System) -> None:
    with ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        assert connections_allowed(STRANGERS + 100) == STRANGERS + 100, "this test needs more open files"
        client = stack.enter_context(connected(system))
        assert place_order(system, client)[0] == 202
        held = client.sock
        for number in range(STRANGERS):
            stranger = socket.create_connection(("127.0.0.1", client.port), timeout=10)
            stack.callback(stranger.close)
            if number % 2:
                stranger.sendall(b"POST /v1/orders HTTP/1.1\r\nhost: a\r\n")
        assert open_files(system, "orders-api") <= CONNECTIONS + OTHER_FILES

        with connected(system) as late:
            status, order_id = place_order(system, late)
            assert status == 202
        assert place_order(system, client)[0] == 202
        assert client.sock is held, "the client's connection was closed"
        eventually(lambda: is_confirmed(system, order_id), seconds=20, what="a confirmed order")
        eventually(
            lambda: open_files(system, "orders-api") <= OTHER_FILES,
            seconds=10 * REQUEST_SECONDS,
            what="the end of the idle connections",
        )


def connected(system: System) -> "closing[HTTPConnection]":
    return closing(HTTPConnection("127.0.0.1", system.process_ports["orders-api"].http, timeout=10))
