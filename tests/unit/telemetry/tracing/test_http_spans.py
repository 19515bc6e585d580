# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import pytest
from litestar import Litestar, Request, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.testing import TestClient
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from orderflow.http.asgi import InstrumentedApplication
from orderflow.telemetry.tracing.propagation import parsed
from orderflow.telemetry.tracing.tracer import Tracing
from tests.rigs.traces import Traces

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
MakeTraces = Callable[..., Traces]


@get("/orders/{order_id:str}")
async def order(order_id: FromPath[str], request: Request[Any, Any, Any]) -> dict[str, Any]:
    if order_id == "missing":
        raise NotFoundException
    if order_id == "broken":
        raise RuntimeError("broken")
    current = get_current_span().get_span_context()
    return {"trace": request.scope["orderflow.trace"], "current": f"{current.trace_id:032x}"}  # type: ignore[typeddict-item]


def traced(traces: Traces) -> InstrumentedApplication:
    return InstrumentedApplication(Litestar([order]), traces.tracing)


def request(application: Any, path: str = "/orders/1", **headers: str) -> Any:
    with TestClient(application) as client:
        return client.get(path, headers=headers)


def test_a_request_begins_a_trace_named_by_its_route(traces: Traces) -> None:
    body = request(traced(traces)).json()
    (span,) = traces.finished
    assert (span.name, span.kind, span.parent) == ("GET /orders/{order_id}", SpanKind.SERVER, None)
    assert body["trace"]["traceparent"].split("-")[1] == f"{span.context.trace_id:032x}" == body["current"]
    expected = {
        "http.request.method": "GET",
        "http.route": "/orders/{order_id}",
        "http.response.status_code": 200,
        "url.path": "/orders/1",
        "url.scheme": "http",
    }
    assert {name: span.attributes.get(name) for name in expected} == expected


def test_a_request_joins_the_trace_of_its_caller(traces: Traces) -> None:
    body = request(traced(traces), traceparent=SAMPLED, tracestate="a=1").json()
    (span,) = traces.finished
    assert span.parent and f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert body["trace"]["tracestate"] == "a=1"


def test_a_callers_decision_not_to_sample_is_respected_and_passed_on(traces: Traces) -> None:
    body = request(traced(traces), traceparent=UNSAMPLED).json()
    assert len(traces.finished) == 0
    trace_id, flags = body["trace"]["traceparent"].split("-")[1::2]
    assert trace_id == "0af7651916cd43dd8448eb211c80319c" == body["current"]
    assert int(flags, 16) & 1 == 0


@pytest.mark.parametrize("ratio", ["0", "0.0"])
def test_the_edge_decides_by_the_standard_variables(make_traces: MakeTraces, ratio: str) -> None:
    traces = make_traces(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG=ratio)
    application = traced(traces)
    assert int(request(application).json()["trace"]["traceparent"][-2:], 16) & 1 == 0
    assert len(traces.finished) == 0
    request(application, traceparent=SAMPLED)
    assert len(traces.finished) == 1


def test_a_ratio_samples_about_that_part(make_traces: MakeTraces) -> None:
    traces = make_traces(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    application: Any = traced(traces)
    with TestClient(application) as client:
        for _ in range(200):
            client.get("/orders/1")
    assert 50 < len(traces.finished) < 150


def test_errors_are_distinguished_from_refusals(traces: Traces) -> None:
    application = traced(traces)
    assert request(application, "/orders/missing").status_code == 404
    assert request(application, "/orders/broken").status_code == 500
    assert request(application, "/elsewhere").status_code == 404
    refused, broken, unmatched = traces.finished
    assert refused.status is StatusCode.UNSET
    assert broken.status is StatusCode.ERROR
    assert broken.attributes["error.type"] == "500"
    assert unmatched.name == "GET"
    assert "http.route" not in unmatched.attributes


@pytest.mark.parametrize("header", ["", "nonsense", SAMPLED[:-1], "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
def test_a_malformed_context_begins_a_trace_of_our_own(traces: Traces, header: str) -> None:
    request(traced(traces), traceparent=header)
    (span,) = traces.finished
    assert span.parent is None


def test_without_tracing_a_valid_context_is_passed_on() -> None:
    application = InstrumentedApplication(Litestar([order]), Tracing())
    assert request(application, traceparent=SAMPLED).json()["trace"] == {"traceparent": SAMPLED}
    assert request(application, traceparent="nonsense").json()["trace"] == {}


def test_the_span_of_an_accepted_order_bears_its_id(traces: Traces) -> None:
    async def application(scope: Mapping[str, Any], receive: object, send: Any) -> None:
        traces.tracing.annotate(scope["orderflow.trace"], {"orderflow.order_id": "order-1"})
        await send({"type": "http.response.start", "status": 202, "headers": []})

    async def nothing(message: MutableMapping[str, Any] | None = None) -> MutableMapping[str, Any]:
        return message or {}

    async def ignored(message: MutableMapping[str, Any]) -> None:
        assert message["status"] == 202

    scope = {"type": "http", "method": "PURGE", "path": "/", "headers": []}
    asyncio.run(InstrumentedApplication(application, traces.tracing)(scope, nothing, ignored))
    (span,) = traces.finished
    assert span.attributes["orderflow.order_id"] == "order-1"
    assert span.attributes["http.response.status_code"] == 202
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "PURGE"
    context = parsed(scope["orderflow.trace"])  # type: ignore[arg-type]
    assert context is not None and traces.spans.find(context) is None
