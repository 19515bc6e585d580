# SPDX-License-Identifier: Apache-2.0
import logging
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orderflow.instrumentation import Area
from orderflow.messaging.instrumentation import BatchResult
from orderflow.settings import Settings
from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.setup import Telemetry, broker_attributes
from tests.rigs.scripted_broker import deliver

Start = Callable[..., Telemetry]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Telemetry] = []
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def begin(*areas: Area, environ: Mapping[str, str] | None = None, **settings: str) -> Telemetry:
        given = Settings.from_env({"ORDERFLOW_TELEMETRY_PORT": "0", **settings})
        telemetry = Telemetry.start(given, "orders", environ or {}, areas=areas, queues=("order_updates",))
        started.append(telemetry)
        return telemetry

    yield begin
    for telemetry in started:
        telemetry.shutdown(timeout_seconds=1)
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def scraped(telemetry: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{telemetry.server.port}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert len([line for line in text.splitlines() if line.startswith("# TYPE")]) == len(
        {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    )
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def one(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_everything_that_core_and_services_report_can_be_scraped(start: Start) -> None:
    telemetry = start("consuming", "publishing", "orders")
    telemetry.instrumentation.batch_received("order_updates", [deliver()]).handled(BatchResult(done=1))
    telemetry.instrumentation.order_final("confirmed", 0.3, {})
    telemetry.watch(idle_seconds=lambda: {"relay": 1.5}, stalled=dict, not_ready=list)
    values = scraped(telemetry)
    assert values[one("orderflow_messages_handled_total", queue="order_updates")] == 1
    assert values[one("orderflow_orders_final_total", outcome="confirmed")] == 1
    assert values[one("orderflow_loop_idle_seconds", loop="relay")] == 1.5
    assert values[one("orderflow_ready")] == 1
    assert values[one("process_max_fds")] > 0


def test_the_build_is_named(start: Start) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    names = {key: value for key, value in scraped(start()) if key == "orderflow_build_info"}
    labels = dict(names["orderflow_build_info"])
    assert (labels["process"], labels["python"]) == ("orders", python)
    assert labels["version"]


def test_until_it_is_watched_the_process_is_not_ready(start: Start) -> None:
    assert scraped(start())[one("orderflow_ready")] == 0


def test_nothing_of_other_areas_is_shown(start: Start) -> None:
    shown = {name for name, _ in scraped(start("reconciling"))}
    assert catalogue.OVERSOLD.name in shown
    assert catalogue.ORDERS_ACCEPTED.name not in shown


def test_tracing_is_on_only_with_an_endpoint(start: Start) -> None:
    assert start().pipeline is None
    on = start(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert on.pipeline is not None


def test_a_fault_in_telemetry_stops_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    telemetry = start()
    for name in ("batch_received", "publishing", "connected", "relayed"):
        monkeypatch.setattr(f"orderflow.telemetry.metrics.recorder.Recorder.{name}", broken)
    monkeypatch.setattr("orderflow.telemetry.tracing.tracer.Tracing.calling", broken)
    instrumentation = telemetry.instrumentation
    instrumentation.batch_received("q", [deliver()]).handled(BatchResult(done=1))
    instrumentation.publishing([]).settled(confirmed=1, failures={}, seconds=0.1)
    instrumentation.connected("publish", connected=True)
    instrumentation.relayed(1)
    assert instrumentation.calling("charge", {}).headers() == {}


def test_the_broker_is_named_without_its_password() -> None:
    attributes = broker_attributes("amqps://user:secret@broker.example:5671/shop")
    assert attributes == {"server.address": "broker.example", "server.port": 5671}
    assert broker_attributes("") == {}
