# SPDX-License-Identifier: Apache-2.0
"""What services, HTTP APIs and operations report, in addition to the reports of the messaging core.

Every method does nothing here; telemetry overrides the methods that it needs. They may be called from any thread, and
must neither block nor raise. What belongs to a transaction is reported after its commit (``UnitOfWork.after_commit``),
so that a rollback counts nothing. ``trace`` are the trace headers of the work: ``Incoming.trace``, those of the
request, or those in the column in which they were stored.

Words that become labels come from the sets below; a word that is not in its set is counted as ``other``.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from orderflow.messaging.instrumentation import MessagingInstrumentation

Area = Literal[
    "consuming",
    "publishing",
    "intake",
    "orders",
    "http",
    "stock",
    "payments",
    "notifications",
    "calling",
    "reconciling",
    "process",
]
"""What a process can do. The metrics of an area are exported at 0 from the start of a process that names it."""

OUTCOMES = ("confirmed", "rejected", "cancelled")
"""How an order ends."""

OPEN_STATES = ("accepted", "reserved")
"""The states in which an order can be stuck."""

REFUSALS = (
    "invalid",
    "unauthorized",
    "forbidden",
    "unknown_sku",
    "sold_out",
    "mixed_currencies",
    "idempotency_key_reused",
    "idempotency_key_in_flight",
    "too_large",
    "quota_exceeded",
    "overloaded",
    "reservations_delayed",
    "payments_delayed",
    "backlog_too_long",
    "database_unavailable",
)
"""Why the API did not take an order."""

HTTP_CLOSINGS = ("head_too_large", "malformed", "overdue", "replaced", "refused", "unread")
"""Why the server closed a connection.

``replaced``: in favour of a new one; ``refused``: all others were busy; ``unread``: its client reads no responses.
"""

PAYMENT_OPERATIONS = ("charge", "look_up", "refund")
PAYMENT_OUTCOMES = ("captured", "declined", "refused", "not_known", "refunded", "failed", "unclear")
"""How a call to the payment provider ended.

``refused``: for good; ``failed``: nothing was executed; ``unclear``: something may have been.
"""

NOTIFICATION_KINDS = ("order_confirmed", "order_rejected", "order_cancelled", "payment_refunded", "stock_low")
NOTIFICATION_OUTCOMES = ("sent", "retried", "failed")

STOCK_MOVES = ("put", "reserve", "release", "sell")


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """Orders that have been in one open state for too long, and the age of the oldest of them in seconds."""

    orders: int = 0
    oldest_seconds: float = 0.0


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What one look of the reconciler found; all numbers are 0 when the promises hold, and None when not known."""

    oversold_units: int | None = 0
    ended_twice: int = 0
    """Final orders whose history does not have exactly one end."""
    duplicate_charges: int = 0
    duplicate_notifications: int = 0
    ledger_drift_units: int | None = 0
    """Sum of how far stock, ledger and reservations are apart."""
    charge_mismatches: int = 0
    """Orders whose charges do not fit their state."""
    stock_mismatches: int = 0
    """Orders whose reservations do not fit their state."""
    stale_availability: int = 0
    """SKUs whose newest stock the orders API does not have."""
    missing_notifications: int = 0
    """Final orders without a notification."""
    stuck: Mapping[str, Stuck] = {}
    """By state; a state that is left out has none."""
    behind_seconds: float = 0.0
    """How much later than they should orders that ended are compared."""
    sweep_age_seconds: float = 0.0
    """Time since all orders were compared."""
    valid_seconds: float = float("inf")
    """How long these numbers count unless another look ends."""


class RequestObserver:
    """Follows one HTTP request; the base class does nothing."""

    __slots__ = ()

    def headers(self) -> Mapping[str, str]:
        """Trace headers to store with what the request causes; none by default."""
        return {}

    def finished(self, *, route: str, status: int, seconds: float) -> None:
        """The response was sent. ``route`` is the template, "" when no route matched."""


class Instrumentation(MessagingInstrumentation):
    """Receives the reports of the core and of the services; the base class does nothing."""

    def http_request_started(self, *, method: str, path: str, scheme: str, trace: Mapping[str, str]) -> RequestObserver:
        """A request arrived; ``trace`` are the trace headers that its client sent, unchanged.

        The observer's ``finished`` is called in the same task, so that a span can be the current one until then.
        """
        _ = method, path, scheme, trace
        return RequestObserver()

    def http_request_refused(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """A request was refused early, before the application; no ``http_request_started`` comes before it."""

    def http_connections(self, open_connections: int) -> None:
        """The number of open connections; reported every second."""

    def http_connection_closed(self, reason: str) -> None:
        """The server closed a connection because of a limit; the reason is one of HTTP_CLOSINGS."""

    def rate_limited(self, client: str) -> None:
        """A request was refused because its client had sent too many; ``client`` is the name of its API key."""

    def order_accepted(self, order_id: str, trace: Mapping[str, str]) -> None:
        """An order is committed, before its 202 is sent."""

    def replayed(self) -> None:
        """A repeated Idempotency-Key got its first response again."""

    def refused(self, reason: str) -> None:
        """An order was not taken; the reason is one of REFUSALS."""

    def admission(self, *, predicted_seconds: float, accepting: bool) -> None:
        """How long the decision of a new order is predicted to take, and whether new orders are accepted."""

    def reservations_expired(self, count: int) -> None:
        """So many orders were rejected without looking at the stock, because their deadline had passed."""

    def charges_expired(self, count: int) -> None:
        """So many charges were declined without a call to the provider, because their deadline had passed."""

    def order_final(self, outcome: str, seconds: float, trace: Mapping[str, str]) -> None:
        """The final state of an order is committed, ``seconds`` after it was accepted."""

    def stock_moved(self, move: str, units: int) -> None:
        """Units of any SKU were put in stock, reserved, released or sold. Negative numbers are not counted."""

    def payment_call(self, operation: str, outcome: str, seconds: float) -> None:
        """A call to the payment provider ended; the words are in PAYMENT_OPERATIONS, PAYMENT_OUTCOMES."""

    def payments_unknown(self, count: int) -> None:
        """The number of charges whose result is not known yet."""

    def refunds_failed(self, count: int) -> None:
        """The number of refunds that the provider refused for good."""

    def notification(self, kind: str, outcome: str) -> None:
        """A notification was sent, scheduled for a retry, or failed for good."""

    def queues_unread(self, count: int | None) -> None:
        """The broker was asked for queues that get events and have no consumer; None when it did not answer."""

    def reconciled(self, found: Reconciliation) -> None:
        """A look of the reconciler ended."""

    def reconciliation_failed(self) -> None:
        """A look of the reconciler failed: what the last one found may have changed."""
