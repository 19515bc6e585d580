# SPDX-License-Identifier: Apache-2.0
"""The labels of the metrics, each with a bounded number of values, and the buckets of the histograms."""

from orderflow.instrumentation import (
    HTTP_CLOSINGS,
    NOTIFICATION_KINDS,
    NOTIFICATION_OUTCOMES,
    OPEN_STATES,
    OUTCOMES,
    PAYMENT_OPERATIONS,
    PAYMENT_OUTCOMES,
    REFUSALS,
    STOCK_MOVES,
)
from orderflow.telemetry.metrics.types import Label

REJECT_REASONS = (
    "bad_data",
    "corrupt_compression",
    "empty_body",
    "invalid_body",
    "invalid_header",
    "invalid_message_id",
    "missing_message_id",
    "missing_user_id",
    "not_an_event",
    "not_json",
    "too_large",
    "unexpected_event",
    "unknown_content_encoding",
    "unknown_content_type",
    "unknown_event_type",
    "unknown_order",
    "nothing_reserved",
    "unknown_version",
    "wrong_publisher",
    "wrong_routing_key",
)

QUEUE = Label(name="queue", meaning="the work queue")
RETRY_REASON = Label(name="reason", meaning="one fixed word", values=("handler_error",))
DEAD_REASON = Label(name="reason", meaning="one fixed word", values=("handler_error", *REJECT_REASONS))
PAUSE_REASON = Label(
    name="reason",
    meaning="what failed",
    values=("broker_unavailable", "database_unavailable", "transaction_aborted", "other"),
    closed=True,
)
FAILURE = Label(
    name="failure",
    meaning="why it is not confirmed",
    values=("returned", "nacked", "too_large", "refused", "lost"),
    closed=True,
)
ROUTING_KEY = Label(name="routing_key", meaning="the routing key of the events", max_values=64)
ROLE = Label(name="role", meaning="what the connection is for: publish or consume", max_values=2)
OUTCOME = Label(name="outcome", meaning="the final state", values=OUTCOMES, closed=True)
STATE = Label(name="state", meaning="the open state", values=OPEN_STATES, closed=True)
ROUTE = Label(name="route", meaning="the path's template, `unmatched` without one", max_values=32)
METHOD = Label(name="method", meaning="the HTTP method", values=("GET", "POST", "PUT"), max_values=8)
STATUS = Label(name="status", meaning="the HTTP status code", max_values=32)
CLOSING = Label(name="reason", meaning="which limit", values=HTTP_CLOSINGS, closed=True)
CLIENT = Label(name="client", meaning="the name of the API key", max_values=64)
REFUSAL = Label(name="reason", meaning="why", values=REFUSALS, max_values=24)
MOVE = Label(name="move", meaning="what happened to the units", values=STOCK_MOVES, max_values=8)
OPERATION = Label(name="operation", meaning="the provider's operation", values=PAYMENT_OPERATIONS, max_values=8)
CALL_OUTCOME = Label(name="outcome", meaning="how the call ended", values=PAYMENT_OUTCOMES, max_values=12)
EFFECTS = Label(name="effects", meaning="what the calls are for: charge or notify", max_values=4)
NOTIFICATION = Label(name="kind", meaning="what the notification is about", values=NOTIFICATION_KINDS, max_values=12)
NOTIFIED = Label(name="outcome", meaning="the result of the attempt", values=NOTIFICATION_OUTCOMES, max_values=8)
LOOP = Label(name="loop", meaning="what the thread does")
PRUNED = Label(name="rows", meaning="what is pruned: the inbox of a queue, or a table", max_values=32)
DROP_REASON = Label(name="reason", meaning="why", values=("queue_full", "export_failed"), closed=True)

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
AGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
SIZES = (1, 2, 5, 10, 25, 50, 100, 150, 200, 250, 500, 1000)
FINALS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300)
BUILD_LABELS = (
    Label(name="process", meaning="the process name", max_values=1),
    Label(name="version", meaning="orderflow's version", max_values=1),
    Label(name="python", meaning="Python's version", max_values=1),
)
