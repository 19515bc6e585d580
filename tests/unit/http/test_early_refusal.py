# SPDX-License-Identifier: Apache-2.0
"""A server on a real socket refuses the requests of one operation before its application sees them."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest
from litestar import Litestar, post
from prometheus_client import CollectorRegistry

from orderflow.http.asgi import Receive, Scope, Send
from orderflow.http.connections import ConnectionLimits
from orderflow.http.early_refusal import EarlyRefusal
from orderflow.http.problems import ProblemType
from orderflow.instrumentation import Instrumentation
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.metrics.service_recorder import ServiceRecorder
from tests.rigs.http_server import RunningServer, is_closed, read, read_all, read_until_closed, serving
from tests.rigs.traces import Traces

PROBLEM = ProblemType("too-busy", 503, "The shop is too busy.")
PATIENT = ConnectionLimits(connections=10, head_bytes=2048, request_seconds=60, idle_seconds=60)
HEAD = b"POST /v1/orders HTTP/1.1\r\nhost: a\r\n"
CLOSING = HEAD + b"connection: close\r\n"
ORDER = HEAD + b"content-length: 5\r\n\r\norder"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
LARGE = b"x" * 1_000_000


class Gate:
    """Whether requests are refused."""

    def __init__(self) -> None:
        self.closed = True

    def check(self) -> int | None:
        return 7 if self.closed else None


class RefusedRequests(Instrumentation):
    """Counts them, for a test that waits for the next."""

    def __init__(self) -> None:
        self.reported = threading.Semaphore(0)

    def http_request_refused(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self.reported.release()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with the length of the body; a client is authenticated on the path /client."""
    if scope["path"] == "/client":
        scope["user"] = "client"
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % length
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def refusing(gate: Gate, problem: ProblemType = PROBLEM) -> EarlyRefusal:
    return EarlyRefusal("POST", "/v1/orders", problem, gate.check)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(application, limits=PATIENT, early_refusal=refusing(Gate())) as running:
        yield running


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", received)]


def test_a_refusal_is_a_problem_document_with_retry_after_and_keeps_the_connection(server: RunningServer) -> None:
    client = HTTPConnection("127.0.0.1", server.port, timeout=10)
    client.request("POST", "/v1/orders", body=b"order", headers={"x": "never in a response"})
    response = client.getresponse()
    headers = dict(response.getheaders())
    assert headers.pop("date").endswith("GMT")
    body = response.read()
    assert headers == {
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "retry-after": "7",
    }
    assert (response.status, response.reason) == (503, "Service Unavailable")
    assert json.loads(body) == {
        "type": "too-busy",
        "title": "too busy",
        "status": 503,
        "detail": "The shop is too busy.",
    }
    held = client.sock
    client.request("POST", "/v1/stock", body=b"four")
    assert client.getresponse().read() == b"4"
    assert client.sock is held
    client.close()


def test_while_the_check_lets_requests_through_the_application_responds() -> None:
    gate = Gate()
    with serving(application, early_refusal=refusing(gate)) as server:
        client = server.connect(ORDER)
        assert read(client)[0] == 503
        gate.closed = False
        client.sendall(ORDER)
        assert read(client) == (200, b"5")


BODIES = {
    "of a known length": (b"content-length: 1000000\r\n\r\n", LARGE),
    "in chunks": (b"transfer-encoding: chunked\r\n\r\n", b"5\r\norder\r\nf4240\r\n" + LARGE + b"\r\n0\r\n\r\n"),
    "with a trailer": (b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n0\r\na: b\r\n\r\n"),
    "without a byte": (b"content-length: 0\r\n\r\n", b""),
}


@pytest.mark.parametrize(("head", "body"), BODIES.values(), ids=BODIES)
def test_a_body_is_discarded_whether_it_arrives_before_or_after_the_response(
    server: RunningServer, head: bytes, body: bytes
) -> None:
    client = server.connect(HEAD + head)
    assert read(client)[0] == 503
    client.sendall(body + HEAD + head + body + LAST)
    assert statuses(read_all(client)) == [503, 200]


def test_a_client_that_asks_before_it_sends_the_body_is_refused_and_its_connection_ends(server: RunningServer) -> None:
    """It may leave the body out, and then its next request must not be read as the body."""
    client = server.connect(HEAD + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    client.sendall(b"order")
    received = read_all(client)
    assert statuses(received) == [503]
    assert b"\r\nconnection: close\r\n" in received


def test_half_a_body_is_not_waited_for_longer_than_a_request() -> None:
    limits = ConnectionLimits(connections=10, request_seconds=0.2, idle_seconds=1)
    with serving(application, limits=limits, early_refusal=refusing(Gate())) as server:
        for head in (HEAD, CLOSING):
            client = server.connect(head + b"content-length: 9\r\n\r\nabc")
            assert read(client)[0] == 503
            assert is_closed(client)


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    client = server.connect(GET + ORDER + ORDER + GET + ORDER + LAST)
    assert statuses(read_all(client)) == [200, 503, 503, 200, 503, 200]


def test_too_many_pipelined_requests_close_the_connection() -> None:
    with serving(application, limits=PATIENT, early_refusal=refusing(Gate())) as server:
        assert is_closed_after(server.connect(ORDER * 1000)) < 100
        assert server.reasons == ["malformed"]


def is_closed_after(client: socket.socket) -> int:
    """The number of refusals that arrive before the connection is closed."""
    return read_until_closed(client).count(b"503 Service Unavailable")


@pytest.mark.parametrize("after", [b"", GET, ORDER, b"\x16\x03\x01", b"GET / HTTP/1.1\r\nx: " + b"x" * 3000])
@pytest.mark.parametrize(
    "head", [CLOSING, b"POST /v1/orders HTTP/1.0\r\nhost: a\r\n"], ids=["connection: close", "HTTP/1.0"]
)
def test_a_client_that_asks_to_close_gets_one_response(server: RunningServer, head: bytes, after: bytes) -> None:
    before = len(server.reasons)
    received = read_all(server.connect(head + b"content-length: 5\r\n\r\norder" + after))
    assert statuses(received) == [503]
    assert b"\r\nconnection: close\r\n" in received
    assert server.reasons[before:] == []


def test_a_connection_is_closed_when_the_body_has_arrived_so_that_its_client_can_read_the_response(
    server: RunningServer,
) -> None:
    client = server.connect(CLOSING + b"content-length: 1000000\r\n\r\n")
    client.sendall(LARGE)
    assert statuses(read_all(client)) == [503]


def test_in_the_lame_duck_period_each_response_closes_its_connection() -> None:
    with serving(application, early_refusal=refusing(Gate())) as server:
        kept = server.connect(ORDER)
        assert read(kept)[0] == 503
        server.begin_lame_duck()
        kept.sendall(ORDER)
        for client, status in ((kept, 503), (server.connect(GET), 200)):
            received = read_all(client)
            assert statuses(received) == [status]
            assert b"\r\nconnection: close\r\n" in received


@pytest.mark.parametrize("after", [GET, ORDER, b"\x16\x03\x01", b"GET / HTTP/1.1\r\nx: " + b"x" * 3000])
def test_what_follows_a_refusal_that_closes_its_connection_is_ignored(after: bytes) -> None:
    served = []

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await application(scope, receive, send)

    with serving(recording, limits=PATIENT, early_refusal=refusing(Gate())) as server:
        server.begin_lame_duck()
        assert statuses(read_all(server.connect(ORDER + after))) == [503]
        assert server.send(GET.replace(b"/", b"/later", 1))[0] == 200
    assert (served, server.reasons) == (["/later"], [])


def test_a_client_that_reads_no_response_is_disconnected() -> None:
    """Its responses fill the buffers of both sockets, then that of the server, which has a limit."""
    requests, long = RefusedRequests(), ProblemType("too-busy", 503, "x" * 20_000)
    refusal = refusing(Gate(), long)
    with serving(application, limits=PATIENT, instrumentation=[requests], early_refusal=refusal) as server:
        client = server.connect()
        for _ in range(5000):
            if server.reasons:
                break
            client.sendall(ORDER)
            assert requests.reported.acquire(timeout=10)
        assert server.reasons == ["unread"]
        assert is_closed_after(client) > 1
        assert server.send(GET) == (200, b"0")


ROUTED = ["/v1/orders", "/v1/orders/", "//v1/orders", "/v1//orders//", "/v1/orders?x=1", "/v1/orders#x"]
ROUTED_TOO = ["/v1/%6frders", "/v1%2forders", "http://a/v1/orders", "http://a/v1/orders/?x=1"]
OTHERS = ["/v1/orders/x", "/v1/order", "/V1/orders", "/v1/./orders", "/v1/orders%20", "/v1/orders;x", "http://a", "/"]


@pytest.mark.parametrize("target", [*ROUTED, *ROUTED_TOO, *OTHERS])
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "HEAD", "OPTIONS"])
def test_what_the_router_would_route_is_refused_and_nothing_else(
    routed: Callable[[bytes], int], refused: Callable[[bytes], int], method: str, target: str
) -> None:
    request = f"{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
    status = routed(request)
    assert (status == 201) == (method == "POST" and target not in OTHERS)
    assert refused(request) == (503 if status == 201 else status)


@pytest.fixture(scope="module")
def routed() -> Iterator[Callable[[bytes], int]]:
    with serving(ROUTER) as server:
        yield lambda request: statuses(read_all(server.connect(request)))[0]


@pytest.fixture(scope="module")
def refused() -> Iterator[Callable[[bytes], int]]:
    with serving(ROUTER, early_refusal=refusing(Gate())) as server:
        yield lambda request: statuses(read_all(server.connect(request)))[0]


@post("/v1/orders", sync_to_thread=False)
def place_order() -> None:
    """Status 201."""


ROUTER = Litestar([place_order], logging_config=None)


def test_a_refused_request_counts_like_any_other_and_has_no_span() -> None:
    registry, traces = CollectorRegistry(), Traces.in_memory()
    listeners = (traces.tracing, ServiceRecorder(MetricRegistry(registry), traces.tracing))
    with serving(application, instrumentation=listeners, early_refusal=refusing(Gate())) as server:
        client = server.connect(ORDER + ORDER + LAST)
        assert statuses(read_all(client)) == [503, 503, 200]
    count, route = registry.get_sample_value, {"route": "/v1/orders", "method": "POST"}
    assert count("orderflow_http_requests_total", {**route, "status": "503"}) == 2
    assert count("orderflow_http_request_duration_seconds_count", route) == 2
    assert [span.name for span in traces.finished] == ["GET"]


def test_a_client_whose_requests_were_only_refused_is_a_stranger() -> None:
    limits = ConnectionLimits(connections=2, request_seconds=60, idle_seconds=60)
    with serving(application, limits=limits, early_refusal=refusing(Gate())) as server:
        client = server.connect(GET.replace(b"/", b"/client", 1))
        assert read(client) == (200, b"0")
        stranger = server.connect(ORDER)
        assert read(stranger)[0] == 503
        assert server.send(GET) == (200, b"0")
        assert is_closed(stranger)
        assert server.reasons == ["replaced"]
        client.sendall(GET)
        assert read(client) == (200, b"0")
