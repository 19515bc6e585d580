# SPDX-License-Identifier: Apache-2.0
"""What services, HTTP APIs and operations report, beside what the messaging core reports.

Every method does nothing here; telemetry overrides those it needs. They may be called from any thread and neither
block nor raise. What belongs to a transaction is reported after its commit (``UnitOfWork.after_commit``), so that a
rollback counts nothing. ``trace`` is the mapping of trace headers that came with the work (``Incoming.trace``, those of
the request, or the column in which they were stored).

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
    "overloaded",
    "outbox_too_old",
    "database_unavailable",
)
"""Why the API did not take an order."""

PAYMENT_OPERATIONS = ("charge", "look_up", "refund")
PAYMENT_OUTCOMES = ("captured", "declined", "not_known", "refunded", "failed", "unclear")
"""How a call to the payment provider ended: ``failed`` executed nothing, ``unclear`` may have executed."""

NOTIFICATION_KINDS = ("order_confirmed", "order_rejected", "order_cancelled", "payment_refunded", "stock_low")
NOTIFICATION_OUTCOMES = ("sent", "retried", "failed")

STOCK_MOVES = ("put", "reserve", "release", "sell")


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """Orders that have been in one open state for too long, and the age of the oldest of them in seconds."""

    orders: int = 0
    oldest_seconds: float = 0.0


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the reconciler found; all numbers are 0 when the promises hold."""

    oversold_units: int = 0
    duplicate_charges: int = 0
    duplicate_notifications: int = 0
    ledger_drift_units: int = 0
    """Sum over all SKUs of how far stock, ledger and reservations are apart."""
    charge_mismatches: int = 0
    """Orders whose charges do not fit their state."""
    stock_mismatches: int = 0
    """Orders whose reservations do not fit their state."""
    stale_availability: int = 0
    """SKUs of which the orders API does not know the newest stock."""
    missing_notifications: int = 0
    """Final orders without a notification."""
    stuck: Mapping[str, Stuck] = {}
    """By state; a state that is left out has none."""


class RequestObserver:
    """Follows one HTTP request; the base class does nothing."""

    __slots__ = ()

    def headers(self) -> Mapping[str, str]:
        """Trace headers to store beside what the request causes; none by default."""
        return {}

    def finished(self, *, route: str, status: int, seconds: float) -> None:
        """The response was sent. ``route`` is the template, "" when no route matched."""


class Instrumentation(MessagingInstrumentation):
    """Receives the reports of the core and of the services; the base class does nothing."""

    def http_request_started(self, *, method: str, path: str, scheme: str, trace: Mapping[str, str]) -> RequestObserver:
        """A request arrived; ``trace`` are the trace headers that its client sent, as they came.

        The observer's ``finished`` is called in the same task, so that a span can be the current one until then.
        """
        _ = method, path, scheme, trace
        return RequestObserver()

    def order_accepted(self, order_id: str, trace: Mapping[str, str]) -> None:
        """An order is committed, before its 202 is sent."""

    def replayed(self) -> None:
        """A repeated Idempotency-Key got its first response again."""

    def refused(self, reason: str) -> None:
        """An order was not taken; the reason is one of REFUSALS."""

    def order_final(self, outcome: str, seconds: float, trace: Mapping[str, str]) -> None:
        """The final state of an order is committed, ``seconds`` after it was accepted."""

    def stock_moved(self, move: str, units: int) -> None:
        """Units of any SKU are put in stock, reserved, released or sold. Negative units are not counted."""

    def payment_call(self, operation: str, outcome: str, seconds: float) -> None:
        """A call to the payment provider ended; the words are in PAYMENT_OPERATIONS, PAYMENT_OUTCOMES."""

    def payments_unknown(self, count: int) -> None:
        """The number of charges whose result is not known yet."""

    def notification(self, kind: str, outcome: str) -> None:
        """A notification was sent, scheduled for a retry, or failed for good."""

    def reconciled(self, found: Reconciliation) -> None:
        """A run of the reconciler ended."""
