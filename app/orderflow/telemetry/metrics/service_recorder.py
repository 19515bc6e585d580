# SPDX-License-Identifier: Apache-2.0
"""Records the reports of services, APIs and operations."""

import time
from collections.abc import Mapping

from orderflow.instrumentation import Instrumentation, Reconciliation, RequestObserver
from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.reconciler_recorder import ReconcilerRecorder
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.semconv import EXEMPLAR, ORDER_ID
from orderflow.telemetry.tracing.tracer import Tracing

UNMATCHED = "unmatched"
_EXEMPLAR_EVERY_SECONDS = 5.0
"""A scrape reads one exemplar per bucket; marking more spans would only fill the trace store."""


class ServiceRecorder(Instrumentation):
    """Records the metrics of HTTP, orders, stock, payments, notifications and the reconciler."""

    def __init__(self, registry: MetricRegistry, tracing: Tracing) -> None:
        self._tracing = tracing
        self._registry = registry
        self._counter = registry.counter
        self._gauge = registry.gauge
        self._histogram = registry.histogram
        self._reconciler = ReconcilerRecorder(registry)

    def http_request_started(self, *, method: str, path: str, scheme: str, trace: Mapping[str, str]) -> RequestObserver:
        """Count the request and its duration when it has finished."""
        _ = path, scheme, trace
        return _RequestMetrics(self._registry, method)

    def http_request_refused(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count the request and its duration like any other."""
        _count_request(self._registry, method, route, status, seconds)

    def http_connections(self, open_connections: int) -> None:
        """Set the number of open connections."""
        self._gauge(catalogue.HTTP_CONNECTIONS).set(open_connections)

    def http_connection_closed(self, reason: str) -> None:
        """Count a closed connection by its reason."""
        self._counter(catalogue.HTTP_CLOSED, reason).inc()

    def rate_limited(self, client: str) -> None:
        """Count a request above its client's limit."""
        self._counter(catalogue.RATE_LIMITED, client).inc()

    def order_accepted(self, order_id: str, trace: Mapping[str, str]) -> None:
        """Count an accepted order and add its id to the request's span."""
        self._counter(catalogue.ORDERS_ACCEPTED).inc()
        self._tracing.annotate(trace, {ORDER_ID: order_id})

    def replayed(self) -> None:
        """Count a repeated request."""
        self._counter(catalogue.REPLAYS).inc()

    def refused(self, reason: str) -> None:
        """Count a refused order by its reason."""
        self._counter(catalogue.ORDERS_REFUSED, reason).inc()

    def admission(self, *, predicted_seconds: float, accepting: bool) -> None:
        """Set what decides on new orders."""
        self._gauge(catalogue.PREDICTED_SECONDS).set(predicted_seconds)
        self._gauge(catalogue.ACCEPTING).set(accepting)

    def reservations_expired(self, count: int) -> None:
        """Count orders that came too late for a reservation."""
        self._counter(catalogue.RESERVATIONS_EXPIRED).inc(count)

    def charges_expired(self, count: int) -> None:
        """Count orders that came too late for a charge."""
        self._counter(catalogue.CHARGES_EXPIRED).inc(count)

    def order_final(self, outcome: str, seconds: float, trace: Mapping[str, str]) -> None:
        """Count a final order. At most every 5 s, a sampled order becomes the exemplar of its bucket."""
        self._counter(catalogue.ORDERS_FINAL, outcome).inc()
        series = self._histogram(catalogue.ORDER_SECONDS, outcome)
        series.observe(seconds)
        if series.exemplar_age(seconds, time.time()) < _EXEMPLAR_EVERY_SECONDS:
            return
        context = self._tracing.mark("finish order", trace, {EXEMPLAR: True})
        if context is not None:
            ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
            series.set_exemplar(seconds, ids)

    def stock_moved(self, move: str, units: int) -> None:
        """Count moved units."""
        if units > 0:
            self._counter(catalogue.STOCK_UNITS, move).inc(units)

    def payment_call(self, operation: str, outcome: str, seconds: float) -> None:
        """Count a call to the provider and its duration."""
        self._counter(catalogue.PAYMENT_CALLS, operation, outcome).inc()
        self._histogram(catalogue.PAYMENT_SECONDS, operation).observe(seconds)

    def payments_unknown(self, count: int) -> None:
        """Set the number of charges without a known result."""
        self._gauge(catalogue.PAYMENTS_UNKNOWN).set(count)

    def refunds_failed(self, count: int) -> None:
        """Set the number of refused refunds."""
        self._gauge(catalogue.REFUNDS_FAILED).set(count)

    def notification(self, kind: str, outcome: str) -> None:
        """Count an attempt to send a notification."""
        self._counter(catalogue.NOTIFIED, kind, outcome).inc()

    def queues_unread(self, count: int | None) -> None:
        """Set the number of queues that nobody reads; while it is unknown, nothing is exported."""
        if count is None:
            self._registry.remove(catalogue.QUEUES_UNREAD)
        else:
            self._gauge(catalogue.QUEUES_UNREAD).set(count)

    def reconciled(self, found: Reconciliation) -> None:
        """Show every finding of the reconciler until the next look."""
        self._reconciler.reconciled(found)

    def reconciliation_failed(self) -> None:
        """Show no findings of the reconciler."""
        self._reconciler.failed()


class _RequestMetrics(RequestObserver):
    """Counts one HTTP request."""

    __slots__ = ("_method", "_registry")

    def __init__(self, registry: MetricRegistry, method: str) -> None:
        self._registry = registry
        self._method = method

    def finished(self, *, route: str, status: int, seconds: float) -> None:
        _count_request(self._registry, self._method, route or UNMATCHED, status, seconds)


def _count_request(registry: MetricRegistry, method: str, route: str, status: int, seconds: float) -> None:
    registry.counter(catalogue.HTTP_REQUESTS, route, method, str(status)).inc()
    registry.histogram(catalogue.HTTP_SECONDS, route, method).observe(seconds)
