# SPDX-License-Identifier: Apache-2.0
import gzip
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.server import TelemetryServer

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[TelemetryServer]:
    running = TelemetryServer("127.0.0.1", 0, registry)
    running.start()
    yield running
    running.stop()


def get(server: TelemetryServer, path: str, **headers: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def fill(registry: CollectorRegistry) -> None:
    instruments = MetricRegistry(registry)
    instruments.prepare({area.name for area in catalogue.AREAS})
    series = instruments.histogram(catalogue.ORDER_SECONDS, "confirmed")
    series.observe(0.3)
    series.set_exemplar(0.3, {"trace_id": TRACE})


def test_classic_text_is_the_default(server: TelemetryServer, registry: CollectorRegistry) -> None:
    fill(registry)
    status, content_type, body = get(server, "/metrics")
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert TRACE not in body.decode()
    families = {family.name for family in parse_text(body.decode())}
    assert "orderflow_order_completion_seconds" in families


def test_openmetrics_comes_with_exemplars_when_asked_for(server: TelemetryServer, registry: CollectorRegistry) -> None:
    fill(registry)
    status, content_type, body = get(server, "/metrics", Accept=OPENMETRICS)
    assert (status, content_type.split(";")[0]) == (200, "application/openmetrics-text")
    exemplars = [
        sample.exemplar.labels
        for family in parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [{"trace_id": TRACE}]
    assert "_created" not in body.decode()


def test_large_responses_are_compressed_for_clients_that_accept_it(
    server: TelemetryServer, registry: CollectorRegistry
) -> None:
    fill(registry)
    _, _, body = get(server, "/metrics", **{"Accept-Encoding": "gzip"})
    assert b"orderflow_order_completion_seconds" in gzip.decompress(body)


def test_readiness_names_the_reasons_against_it(server: TelemetryServer) -> None:
    status, _, body = get(server, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["starting"]})
    server.not_ready = lambda: ["broker", "database"]
    assert json.loads(get(server, "/readyz")[2])["reasons"] == ["broker", "database"]
    server.not_ready = list
    assert get(server, "/readyz")[0] == 200


def test_health_follows_the_progress_of_the_loops(server: TelemetryServer) -> None:
    assert get(server, "/healthz")[0] == 200
    server.stalled = lambda: {"relay": 61.0}
    status, _, body = get(server, "/healthz")
    assert (status, json.loads(body)) == (503, {"alive": False, "stalled": {"relay": 61.0}})


def test_other_paths_are_not_there(server: TelemetryServer) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics?x=1")[0] == 200


def test_a_probe_that_raises_gets_an_error_response(server: TelemetryServer) -> None:
    def broken() -> list[str]:
        raise RuntimeError("secret")

    server.not_ready = broken
    status, _, body = get(server, "/readyz")
    assert status == 500
    assert b"secret" not in body
    assert get(server, "/healthz")[0] == 200


def test_one_connection_serves_many_scrapes_and_head_has_no_body(server: TelemetryServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, "/healthz")
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, method == "GET")
    connection.close()


def test_a_probe_gets_in_while_strangers_hold_connections(server: TelemetryServer) -> None:
    strangers = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(200)]
    assert get(server, "/healthz")[0] == 200
    assert all(stranger.recv(1) == b"" for stranger in strangers[:136])
    for stranger in strangers:
        stranger.close()


@pytest.mark.parametrize("head", [b"x: y\r\n" * 50, b"x: " + b"y" * 20_000], ids=["many", "long"])
def test_a_head_above_the_limit_closes_the_connection(server: TelemetryServer, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as stranger:
        stranger.sendall(b"GET /healthz HTTP/1.1\r\n" + head)
        if len(head) < 1000:
            stranger.sendall(b"\r\n")
            assert stranger.recv(12) == b"HTTP/1.1 200"
            stranger.sendall(b"GET /healthz HTTP/1.1\r\n" + head * 60)
        with suppress(ConnectionError):
            while stranger.recv(1 << 16):
                pass


def test_the_port_is_given_back(registry: CollectorRegistry) -> None:
    first = TelemetryServer("127.0.0.1", 0, registry)
    first.start()
    first.stop()
    second = TelemetryServer("127.0.0.1", first.port, registry)
    second.stop()
    assert second.port == first.port
