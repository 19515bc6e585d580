# SPDX-License-Identifier: Apache-2.0
"""The client of the management API: what it sends, and which errors it raises."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.management_api import Management, ManagementRefused

PASSWORD = "p%40ss"


class Broker(HTTPServer):
    """Responds to every request with one status, and records the requests."""

    status = 200
    received: list[tuple[str, str, str, bytes]]


class Handler(BaseHTTPRequestHandler):
    server: Broker

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.received.append((self.command, self.path, self.headers["Authorization"], body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Do not log."""


for method in ("GET", "POST", "PUT", "DELETE"):
    setattr(Handler, f"do_{method}", Handler.handle_any)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(("127.0.0.1", 0), Handler) as server:
        server.received = []
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        yield server
        server.shutdown()


def api(broker: Broker) -> Management:
    return Management(f"http://us%2Fer:{PASSWORD}@127.0.0.1:{broker.server_port}/", timeout_seconds=5)


def test_calls_carry_the_login_of_the_url_and_quoted_paths(broker: Broker) -> None:
    management = api(broker)
    assert management.get("queues", "/", "a b") == b"{}"
    management.put("vhosts", "x", body={"a": 1})
    management.post("definitions", body=b"{}")
    management.delete("queues", "/", "q", condition="if-unused")
    login = "Basic " + base64.b64encode(b"us/er:p@ss").decode()
    assert broker.received == [
        ("GET", "/api/queues/%2F/a%20b", login, b""),
        ("PUT", "/api/vhosts/x", login, b'{"a":1}'),
        ("POST", "/api/definitions", login, b"{}"),
        ("DELETE", "/api/queues/%2F/q?if-unused=true", login, b""),
    ]


def test_a_refusal_is_distinguished_from_a_broker_that_failed(broker: Broker) -> None:
    broker.status = 401
    with pytest.raises(ManagementRefused, match="401") as refused:
        api(broker).get("overview")
    assert refused.value.status == 401
    broker.status = 503
    with pytest.raises(BrokerUnavailable, match="503"):
        api(broker).get("overview")


def test_deleting_what_is_absent_is_not_an_error(broker: Broker) -> None:
    broker.status = 404
    api(broker).delete("queues", "/", "q")
    with pytest.raises(ManagementRefused):
        api(broker).get("queues", "/", "q")


def test_a_broker_that_cannot_be_reached_is_unavailable_and_its_password_is_in_no_error() -> None:
    with pytest.raises(BrokerUnavailable, match="cannot be reached") as raised:
        Management(f"http://user:{PASSWORD}@127.0.0.1:1").get("overview")
    assert PASSWORD not in str(raised.value) and "p@ss" not in str(raised.value)
