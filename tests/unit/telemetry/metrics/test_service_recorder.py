# SPDX-License-Identifier: Apache-2.0
import inspect
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from orderflow.instrumentation import Instrumentation, Reconciliation, Stuck
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.metrics.service_recorder import ServiceRecorder
from orderflow.telemetry.tracing.tracer import Tracing
from tests.rigs.traces import Traces, attributes

Value = Callable[..., float | None]
SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
UNSAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


def exposed(registry: CollectorRegistry) -> str:
    encoder, _ = choose_encoder("application/openmetrics-text;version=1.0.0")
    return encoder(registry).decode()


@pytest.fixture
def shop(instruments: MetricRegistry, traces: Traces) -> ServiceRecorder:
    return ServiceRecorder(instruments, traces.tracing)


def test_every_report_of_the_instrumentation_is_recorded() -> None:
    reports = {name for name, member in vars(Instrumentation).items() if inspect.isfunction(member)}
    assert reports and reports <= vars(ServiceRecorder).keys()


def request(recorder: ServiceRecorder, method: str, route: str, status: int) -> None:
    observer = recorder.http_request_started(method=method, path="/v1/orders/1", scheme="http", trace={})
    observer.finished(route=route, status=status, seconds=0.01)


def test_requests_are_counted_by_route_and_never_by_path(shop: ServiceRecorder, value: Value) -> None:
    request(shop, "POST", "/v1/orders", 202)
    request(shop, "BREW", "", 404)
    assert value("orderflow_http_requests_total", route="/v1/orders", method="POST", status="202") == 1
    assert value("orderflow_http_requests_total", route="unmatched", method="BREW", status="404") == 1
    assert value("orderflow_http_request_duration_seconds_count", route="/v1/orders", method="POST") == 1


def test_a_request_that_is_refused_early_counts_like_any_other(shop: ServiceRecorder, value: Value) -> None:
    request(shop, "POST", "/v1/orders", 503)
    shop.http_request_refused(method="POST", route="/v1/orders", status=503, seconds=0.0001)
    assert value("orderflow_http_requests_total", route="/v1/orders", method="POST", status="503") == 2
    assert value("orderflow_http_request_duration_seconds_count", route="/v1/orders", method="POST") == 2


def test_unknown_methods_cannot_make_unlimited_series(shop: ServiceRecorder, registry: CollectorRegistry) -> None:
    for number in range(100):
        request(shop, f"M{number}", "", number + 100)
    assert exposed(registry).count('status="') < 300
    assert registry.get_sample_value(
        "orderflow_http_request_duration_seconds_count", {"route": "unmatched", "method": "other"}
    )


def test_a_final_order_of_a_sampled_trace_becomes_an_example(
    shop: ServiceRecorder, traces: Traces, registry: CollectorRegistry, value: Value
) -> None:
    shop.order_final("confirmed", 0.3, SAMPLED)
    assert value("orderflow_orders_final_total", outcome="confirmed") == 1
    (span,) = traces.named("finish order")
    assert attributes(span)["exemplar"] is True
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    example = f'# {{span_id="{span.context.span_id:016x}",trace_id="0af7651916cd43dd8448eb211c80319c"}} 0.3'
    assert example in exposed(registry)


def test_an_open_span_of_the_order_is_marked_instead(shop: ServiceRecorder, traces: Traces) -> None:
    call = traces.tracing.calling("charge", SAMPLED)
    shop.order_final("confirmed", 0.3, call.headers())
    call.finished("captured")
    (span,) = traces.named("charge")
    assert attributes(span)["exemplar"] is True
    assert traces.named("finish order") == []


def test_a_bucket_gets_one_exemplar_at_a_time(shop: ServiceRecorder, traces: Traces) -> None:
    for _ in range(50):
        shop.order_final("confirmed", 0.3, SAMPLED)
    shop.order_final("confirmed", 20.0, SAMPLED)
    assert len(traces.named("finish order")) == 2


def test_an_order_that_is_not_sampled_is_counted_without_an_example(shop: ServiceRecorder, traces: Traces) -> None:
    for trace in (UNSAMPLED, {}, {"traceparent": "nonsense"}):
        shop.order_final("rejected", 0.3, trace)
    assert len(traces.finished) == 0


def test_without_tracing_everything_is_still_counted(instruments: MetricRegistry, value: Value) -> None:
    shop = ServiceRecorder(instruments, Tracing())
    shop.order_accepted("o", SAMPLED)
    shop.order_final("cancelled", 3.0, SAMPLED)
    assert value("orderflow_orders_accepted_total") == 1
    assert value("orderflow_order_completion_seconds_count", outcome="cancelled") == 1


def test_what_the_reconciler_found_is_shown_whole(shop: ServiceRecorder, value: Value) -> None:
    shop.reconciled(Reconciliation(oversold_units=2, stuck={"reserved": Stuck(orders=3, oldest_seconds=400)}))
    assert value("orderflow_reconciler_oversold_units") == 2
    assert value("orderflow_reconciler_orders_stuck", state="reserved") == 3
    assert value("orderflow_reconciler_orders_stuck_oldest_age_seconds", state="reserved") == 400
    assert value("orderflow_reconciler_orders_stuck", state="accepted") == 0
    assert value("orderflow_reconciler_last_run_timestamp_seconds")
    shop.reconciled(Reconciliation())
    assert value("orderflow_reconciler_orders_stuck", state="reserved") == 0


def test_queues_that_nobody_reads_are_counted_until_somebody_does(shop: ServiceRecorder, value: Value) -> None:
    shop.queues_unread(2)
    assert value("orderflow_reconciler_unread_queues") == 2
    shop.queues_unread(0)
    assert value("orderflow_reconciler_unread_queues") == 0
    shop.queues_unread(None)
    assert value("orderflow_reconciler_unread_queues") is None, "nobody could look"


def test_the_other_reports_are_counted(shop: ServiceRecorder, value: Value) -> None:
    shop.replayed()
    shop.refused("sold_out")
    shop.stock_moved("reserve", 5)
    shop.stock_moved("put", -5)
    shop.payment_call("charge", "captured", 0.1)
    shop.payments_unknown(4)
    shop.refunds_failed(2)
    shop.notification("order_confirmed", "sent")
    assert value("orderflow_idempotent_replays_total") == 1
    assert value("orderflow_orders_refused_total", reason="sold_out") == 1
    assert value("orderflow_stock_units_moved_total", move="reserve") == 5
    assert value("orderflow_stock_units_moved_total", move="put") is None
    assert value("orderflow_payment_calls_total", operation="charge", outcome="captured") == 1
    assert value("orderflow_payment_call_duration_seconds_count", operation="charge") == 1
    assert value("orderflow_payments_unknown") == 4
    assert value("orderflow_refunds_failed") == 2
    assert value("orderflow_notifications_total", kind="order_confirmed", outcome="sent") == 1
