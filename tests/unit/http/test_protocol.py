# SPDX-License-Identifier: Apache-2.0
"""A server on a real socket: what a client may send before it is refused."""

import json
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any

import pytest

from local.eventually import eventually
from orderflow.http.asgi import Receive, Scope, Send
from orderflow.http.connections import ConnectionLimits
from tests.rigs.http_server import RunningServer, is_closed, read, read_until_closed, serving

HEAD_BYTES = 2048
QUICK = ConnectionLimits(connections=10, head_bytes=HEAD_BYTES, request_seconds=0.2, idle_seconds=1)
PATIENT = ConnectionLimits(connections=10, head_bytes=HEAD_BYTES, request_seconds=60, idle_seconds=60)
GET = b"GET / HTTP/1.1\r\nhost: a\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the length of the body; a client is authenticated on the path /client, and /early needs no body."""
    if scope["path"] == "/client":
        scope["user"] = "client"
    length, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = str(length).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def patient() -> Iterator[RunningServer]:
    with serving(echo, limits=PATIENT) as server:
        yield server


def padded(length: int) -> bytes:
    """A complete head of this length."""
    return GET + b"x: " + b"x" * (length - len(GET) - 7) + b"\r\n\r\n"


def test_a_head_up_to_the_limit_is_read_also_byte_by_byte(patient: RunningServer) -> None:
    assert patient.send(padded(HEAD_BYTES)) == (200, b"0")
    assert patient.send(*(bytes([byte]) for byte in GET + b"\r\n")) == (200, b"0")


@pytest.mark.parametrize(
    "parts",
    [
        [padded(HEAD_BYTES + 1)],
        [padded(HEAD_BYTES)[:-2], b"x: y\r\n\r\n"],
        [GET + b"x: " + b"x" * 50_000],
        [GET + b"x: y\r\n" * 10_000],
        [b"GET /" + b"x" * 50_000],
        [b"POST / HTTP/1.1\r\n", b"host: a\r\n", b"content-length: 1\r\n" + b"x: y\r\n" * 1000, b"\r\nx"],
    ],
    ids=["complete", "in two packets", "one header", "many headers", "path", "before a body"],
)
def test_a_head_above_the_limit_is_refused(patient: RunningServer, parts: list[bytes]) -> None:
    before = len(patient.reasons)
    status, body = patient.send(*parts)
    assert (status, json.loads(body)["type"]) == (431, "head-too-large")
    assert patient.reasons[before:] == ["head_too_large"]


def test_what_is_not_http_is_refused_with_a_problem_document(patient: RunningServer) -> None:
    before = len(patient.reasons)
    status, body = patient.send(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
    assert (status, json.loads(body)["type"]) == (400, "bad-request")
    assert patient.reasons[before:] == ["malformed"]


def test_a_body_does_not_count_as_a_head(patient: RunningServer) -> None:
    connection = HTTPConnection("127.0.0.1", patient.port, timeout=10)
    chunks: list[Any] = [b"x" * 100_000, (b"x" * 500 for _ in range(100)), b"x"]
    for body, length in zip(chunks, (100_000, 50_000, 1), strict=True):
        connection.request("POST", "/", body=body, headers={"x": "x" * (HEAD_BYTES - 200)})
        assert connection.getresponse().read() == str(length).encode()
    connection.close()


def test_pipelined_requests_are_answered_in_order_and_each_has_the_whole_limit(patient: RunningServer) -> None:
    one = padded(HEAD_BYTES - 100)
    connection = patient.connect(one * 10)
    assert connection.recv(12) == b"HTTP/1.1 200"


def test_too_many_pipelined_requests_close_the_connection(patient: RunningServer) -> None:
    before = len(patient.reasons)
    connection = patient.connect((GET + b"\r\n") * 1000)
    received = read_until_closed(connection)
    assert received.count(b"HTTP/1.1 200") < 30
    assert patient.reasons[before:] == ["malformed"]


def test_a_trailer_without_an_end_closes_the_connection(patient: RunningServer) -> None:
    before = len(patient.reasons)
    head = GET.replace(b"GET", b"POST") + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: "
    assert is_closed(patient.connect(head, b"x" * 50_000))
    assert patient.reasons[before:] == ["head_too_large"]


UNFINISHED = {
    "nothing": [],
    "half a head": [b"GET / HT"],
    "half a body": [GET.replace(b"GET", b"POST") + b"content-length: 9\r\n\r\nabc"],
    "half a body after the response": [GET.replace(b"GET /", b"POST /early") + b"content-length: 9\r\n\r\nabc"],
    "no second request": [GET + b"\r\n"],
    "half a second request": [GET + b"\r\n", GET],
}


def test_a_connection_that_sends_no_whole_request_in_time_is_closed() -> None:
    with serving(echo, limits=QUICK) as server:
        for connection in [server.connect(*parts) for parts in UNFINISHED.values()]:
            with suppress(ConnectionError):
                while connection.recv(1 << 16):
                    pass  # the response of a whole request, then the end


def test_a_client_that_is_served_keeps_its_connection_while_strangers_take_all_others() -> None:
    with serving(echo, limits=PATIENT) as server:
        client = server.connect(GET.replace(b"/", b"/client", 1) + b"\r\n")
        assert read(client) == (200, b"0")
        strangers = [server.connect() for _ in range(50)]
        eventually(lambda: server.reasons.count("replaced") == 41, seconds=10, what="41 closed strangers")
        assert all(is_closed(stranger) for stranger in strangers[:41])
        client.sendall(GET + b"\r\n")
        assert read(client) == (200, b"0")
        assert server.send(GET + b"\r\n") == (200, b"0")
