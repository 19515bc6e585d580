# SPDX-License-Identifier: Apache-2.0
"""The trace store over real HTTP."""

import gzip
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from local.trace_store import server as trace_store
from local.trace_store.server import TraceStore

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def server() -> Iterator[TraceStore]:
    with TraceStore(keep=5) as running:
        thread = threading.Thread(target=lambda: running.serve_forever(poll_interval=0.01))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def an_export(
    *spans: tuple[str, str, str], trace_id: str = TRACE, service: str = "orders"
) -> ExportTraceServiceRequest:
    """An export of spans, given as (name, id, parent's id), each with an order id."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = service
    scope_spans = resource_spans.scope_spans.add()
    for start, (name, span_id, parent) in enumerate(spans, start=1):
        span = scope_spans.spans.add(name=name, trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id))
        span.parent_span_id = bytes.fromhex(parent)
        span.kind = Span.SPAN_KIND_CONSUMER
        span.start_time_unix_nano, span.end_time_unix_nano = start, start + 10
        span.attributes.add(key="orderflow.order_id").value.string_value = f"order-{name}"
    return request


def post(server: TraceStore, body: bytes, *, encoding: str = "", path: str = "/v1/traces") -> int:
    headers = {"Content-Type": "application/x-protobuf"} | ({"Content-Encoding": encoding} if encoding else {})
    request = urllib.request.Request(server.url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


def get(server: TraceStore, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, timeout=5) as response:
        return json.load(response)


def test_a_trace_is_found_by_its_id_with_all_that_its_spans_said(server: TraceStore) -> None:
    request = an_export(("receive", "01" * 8, ""))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.status.code, span.status.message = Status.STATUS_CODE_ERROR, "declined"
    span.links.add(trace_id=b"\1" * 16, span_id=b"\2" * 8)
    span.attributes.add(key="messaging.batch.message_count").value.int_value = 250
    span.attributes.add(key="ids").value.array_value.values.add().string_value = "a"
    assert post(server, request.SerializeToString()) == 200
    assert get(server, f"/traces/{TRACE}") == [
        {
            "name": "receive",
            "service": "orders",
            "kind": "consumer",
            "trace_id": TRACE,
            "span_id": "01" * 8,
            "parent_span_id": None,
            "start": 1,
            "end": 11,
            "attributes": {"orderflow.order_id": "order-receive", "messaging.batch.message_count": 250, "ids": ["a"]},
            "links": [{"trace_id": "01" * 16, "span_id": "02" * 8, "attributes": {}}],
            "events": [],
            "status": "error",
            "status_message": "declined",
        }
    ]


def test_spans_of_several_exports_join_in_one_trace(server: TraceStore) -> None:
    post(server, an_export(("create", "01" * 8, "")).SerializeToString())
    packed = gzip.compress(an_export(("process", "02" * 8, "01" * 8), service="payments").SerializeToString())
    assert post(server, packed, encoding="gzip") == 200
    spans = get(server, f"/traces/{TRACE}")
    assert {(span["service"], span["name"], span["parent_span_id"]) for span in spans} == {
        ("orders", "create", None),
        ("payments", "process", "01" * 8),
    }


@pytest.mark.parametrize("attribute", ["orderflow.order_id", "color"])
def test_traces_are_found_by_attribute_indexed_or_not(server: TraceStore, attribute: str) -> None:
    for number in (1, 2):
        request = an_export(("create", "01" * 8, ""), trace_id=f"{number:032x}")
        request.resource_spans[0].scope_spans[0].spans[0].attributes[0].key = attribute
        post(server, request.SerializeToString())
    assert get(server, f"/traces?attribute={attribute}=order-create") == [f"{number:032x}" for number in (2, 1)]
    assert get(server, f"/traces?attribute={attribute}=order-create&limit=1") == [f"{2:032x}"]
    assert get(server, f"/traces?attribute={attribute}=another") == []


def test_only_the_newest_spans_are_kept(server: TraceStore) -> None:
    for number in range(1, 9):
        post(server, an_export((f"n{number}", "01" * 8, ""), trace_id=f"{number:032x}").SerializeToString())
    assert [span["name"] for span in get(server, "/spans")] == ["n8", "n7", "n6", "n5", "n4"]
    assert [span["name"] for span in get(server, "/spans?limit=2")] == ["n8", "n7"]
    assert get(server, "/healthz") == {"status": "ok", "spans": 5, "received": 8}
    assert get(server, "/traces?attribute=orderflow.order_id=order-n3") == []
    assert get(server, "/traces") == [f"{number:032x}" for number in (8, 7, 6, 5, 4)]


def test_an_invalid_export_is_refused(server: TraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert post(server, b"\xff\xff\xff") == 400
    assert post(server, b"not gzip", encoding="gzip") == 400
    assert post(server, b"", path="/v1/metrics") == 404
    monkeypatch.setattr(trace_store, "MAX_BODY_BYTES", 1000)
    assert post(server, gzip.compress(bytes(2000)), encoding="gzip") == 413
    assert post(server, bytes(1001)) == 413
    assert get(server, "/healthz")["received"] == 0


@pytest.mark.parametrize("path", [f"/traces/{TRACE}", "/traces/nothex", "/elsewhere"])
def test_what_is_not_there_is_404(server: TraceStore, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server, path)
    error.value.close()
    assert error.value.code == 404
