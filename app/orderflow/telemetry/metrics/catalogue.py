# SPDX-License-Identifier: Apache-2.0
"""The catalogue of metrics: code, dashboards, alerts and documents take the names from here.

Each metric is a constant, so a name that does not exist is a type error. Needs no metrics library.
"""

from orderflow.telemetry.metrics import labels as by
from orderflow.telemetry.metrics.types import Metric, MetricArea

CONSUMING = MetricArea("consuming", "consumes messages")
PUBLISHING = MetricArea("publishing", "publishes messages")
INTAKE = MetricArea("intake", "accepts orders from customers")
ORDERS = MetricArea("orders", "decides the final state of orders")
HTTP = MetricArea("http", "serves HTTP requests")
STOCK = MetricArea("stock", "sets, reserves, releases and sells stock")
PAYMENTS = MetricArea("payments", "calls the payment provider")
NOTIFICATIONS = MetricArea("notifications", "sends notifications")
CALLING = MetricArea("calling", "makes calls to other systems")
RECONCILING = MetricArea("reconciling", "checks every promise against the databases")
PROCESS = MetricArea("process", "belongs to every process")
AREAS = (CONSUMING, PUBLISHING, INTAKE, ORDERS, HTTP, STOCK, PAYMENTS, NOTIFICATIONS, CALLING, RECONCILING, PROCESS)
"""A process exports the metrics of its own areas at 0 from its start, and other metrics when they are first used."""

# Consuming
CONSUMED = CONSUMING.counter(
    "orderflow_messages_consumed_total", "Messages received, redelivered ones included.", by.QUEUE
)
CONSUMED_BYTES = CONSUMING.counter(
    "orderflow_consumed_bytes_total", "Bytes of the bodies received, before decompression.", by.QUEUE
)
REDELIVERED = CONSUMING.counter(
    "orderflow_messages_redelivered_total", "Messages that the broker had delivered before.", by.QUEUE
)
WITHOUT_USER_ID = CONSUMING.counter(
    "orderflow_messages_without_user_id_total", "Messages that do not name the user who published them.", by.QUEUE
)
HANDLED = CONSUMING.counter("orderflow_messages_handled_total", "Messages whose effects were committed.", by.QUEUE)
DUPLICATES = CONSUMING.counter(
    "orderflow_messages_duplicate_total", "Duplicates: messages dropped because their ids were in the inbox.", by.QUEUE
)
RETRIED = CONSUMING.counter(
    "orderflow_messages_retried_total", "Messages sent to a retry queue.", by.QUEUE, by.RETRY_REASON
)
DEAD_LETTERED = CONSUMING.counter(
    "orderflow_messages_dead_lettered_total", "Messages that were dead-lettered.", by.QUEUE, by.DEAD_REASON
)
EVENTS_STORED = CONSUMING.counter(
    "orderflow_events_stored_total", "Events that handlers wrote to the outbox.", by.QUEUE
)
STATEMENTS = CONSUMING.counter(
    "orderflow_sql_statements_total", "SQL statements of batches, begin and commit included.", by.QUEUE
)
BATCHES_FAILED = CONSUMING.counter(
    "orderflow_batch_failures_total", "Attempts at a batch that failed because of the broker or the database.", by.QUEUE
)
PAUSES = CONSUMING.counter(
    "orderflow_consumer_pauses_total",
    "Times that a consumer backed off because the broker or the database failed.",
    by.QUEUE,
    by.PAUSE_REASON,
)
BATCH_MESSAGES = CONSUMING.histogram(
    "orderflow_batch_messages", "Messages per batch.", by.QUEUE, unit="messages", buckets=by.SIZES
)
BATCH_SECONDS = CONSUMING.histogram(
    "orderflow_batch_duration_seconds",
    "From receiving a batch to its acknowledgement, pauses included.",
    by.QUEUE,
    unit="seconds",
    buckets=by.FAST,
)
MESSAGE_AGE = CONSUMING.histogram(
    "orderflow_message_age_seconds",
    "From the event to the receipt of its message, by the clocks of publisher and consumer.",
    by.QUEUE,
    unit="seconds",
    buckets=by.AGES,
)
OLDEST_AGE = CONSUMING.gauge(
    "orderflow_oldest_unprocessed_age_seconds",
    "Age of the oldest message received and not yet handled; 0 when there is none.",
    by.QUEUE,
    unit="seconds",
)
PRUNED = CONSUMING.counter("orderflow_pruned_rows_total", "Rows deleted because they were old.", by.PRUNED)
PRUNE_FAILURES = CONSUMING.counter(
    "orderflow_prune_failures_total", "Failed attempts to delete old rows; each is repeated.", by.PRUNED
)
PRUNED_AGE = CONSUMING.gauge(
    "orderflow_prune_finished_age_seconds",
    "Time since all old rows were last deleted, by any process of the service.",
    by.PRUNED,
    unit="seconds",
)

# Publishing
PUBLISHED = PUBLISHING.counter("orderflow_messages_published_total", "Messages written to the wire.")
CONFIRMED = PUBLISHING.counter("orderflow_messages_confirmed_total", "Messages that the broker confirmed.")
PUBLISH_FAILURES = PUBLISHING.counter(
    "orderflow_publish_failures_total",
    "Messages that are not confirmed to be in a queue; their outbox rows stay.",
    by.FAILURE,
)
CONFIRM_SECONDS = PUBLISHING.histogram(
    "orderflow_publish_confirm_seconds", "From writing a message to its confirm.", unit="seconds", buckets=by.FAST
)
UNCONFIRMED = PUBLISHING.gauge(
    "orderflow_publish_unconfirmed_messages", "Messages on the wire without a confirm.", unit="messages"
)
WAITING = PUBLISHING.gauge(
    "orderflow_publish_waiting_messages", "Messages queued behind the publish window.", unit="messages"
)
CONNECTED = PUBLISHING.gauge("orderflow_broker_connected", "Is 1 while the connection is open.", by.ROLE, unit="state")
CONNECTS = PUBLISHING.counter("orderflow_broker_connects_total", "Times that a connection was opened.", by.ROLE)
BLOCKED = PUBLISHING.gauge(
    "orderflow_broker_blocked",
    "Is 1 while the broker blocks publishing because of a memory or disk alarm.",
    unit="state",
)
OUTBOX_ROWS = PUBLISHING.gauge(
    "orderflow_outbox_rows",
    "Events stored and not yet deleted, without the parked and nacked ones. 10,000: so many or more.",
    unit="messages",
)
OUTBOX_AGE = PUBLISHING.gauge(
    "orderflow_outbox_oldest_age_seconds",
    "Age of the oldest of these events; grows while it cannot be measured.",
    unit="seconds",
)
OUTBOX_NACKED = PUBLISHING.gauge(
    "orderflow_outbox_nacked_rows",
    "Events that the broker refuses because one of their queues is full. 10,000: so many or more.",
    by.ROUTING_KEY,
    unit="messages",
)
OUTBOX_PARKED = PUBLISHING.gauge(
    "orderflow_outbox_parked_rows",
    "Events that the broker refused for good; `orderflow outbox` shows them. Must be 0.",
    unit="messages",
)
RELAYED = PUBLISHING.counter(
    "orderflow_outbox_relayed_total", "Rows that the recovery relay published again after a failure."
)
TAKEN_OVER = PUBLISHING.counter(
    "orderflow_leases_taken_over_total", "Leases of processes that were gone, ended before their time."
)

# Orders
ORDERS_ACCEPTED = INTAKE.counter("orderflow_orders_accepted_total", "Orders committed by the API.")
ORDERS_FINAL = ORDERS.counter("orderflow_orders_final_total", "Orders that reached their final state.", by.OUTCOME)
ORDER_SECONDS = ORDERS.histogram(
    "orderflow_order_completion_seconds",
    "From the acceptance of an order to its final state.",
    by.OUTCOME,
    unit="seconds",
    buckets=by.FINALS,
    exemplars=True,
)
ORDERS_REFUSED = INTAKE.counter("orderflow_orders_refused_total", "Orders that the API refused.", by.REFUSAL)
PREDICTED_SECONDS = INTAKE.gauge(
    "orderflow_order_predicted_completion_seconds",
    "Time until a new order is predicted to be final; above a limit the API refuses new orders.",
    unit="seconds",
)
ACCEPTING = INTAKE.gauge("orderflow_orders_accepting", "Is 1 while the API accepts new orders.", unit="state")
REPLAYS = INTAKE.counter(
    "orderflow_idempotent_replays_total", "Requests whose idempotency key was known: the first response was sent again."
)
HTTP_REQUESTS = HTTP.counter("orderflow_http_requests_total", "HTTP requests served.", by.ROUTE, by.METHOD, by.STATUS)
HTTP_SECONDS = HTTP.histogram(
    "orderflow_http_request_duration_seconds",
    "From a request to the end of its response.",
    by.ROUTE,
    by.METHOD,
    unit="seconds",
    buckets=by.FAST,
)
HTTP_CONNECTIONS = HTTP.gauge("orderflow_http_connections", "Open connections.", unit="connections")
HTTP_CLOSED = HTTP.counter(
    "orderflow_http_connections_closed_total", "Connections that the server closed because of a limit.", by.CLOSING
)
RATE_LIMITED = HTTP.counter(
    "orderflow_http_rate_limited_total", "Requests refused because their client had sent too many.", by.CLIENT
)

# Stock, payments, notifications
STOCK_UNITS = STOCK.counter("orderflow_stock_units_moved_total", "Units of all SKUs that were moved.", by.MOVE)
RESERVATIONS_EXPIRED = STOCK.counter(
    "orderflow_reservations_expired_total", "Orders rejected without a reservation because their deadline had passed."
)
CHARGES_EXPIRED = PAYMENTS.counter(
    "orderflow_charges_expired_total", "Orders declined without a charge because their deadline had passed."
)
PAYMENT_CALLS = PAYMENTS.counter(
    "orderflow_payment_calls_total", "Calls to the payment provider.", by.OPERATION, by.CALL_OUTCOME
)
PAYMENT_SECONDS = PAYMENTS.histogram(
    "orderflow_payment_call_duration_seconds",
    "Duration of calls to the payment provider, with or without a response.",
    by.OPERATION,
    unit="seconds",
    buckets=by.FAST,
)
PAYMENTS_UNKNOWN = PAYMENTS.gauge("orderflow_payments_unknown", "Charges whose result is not known yet.", unit="orders")
REFUNDS_FAILED = PAYMENTS.gauge(
    "orderflow_refunds_failed",
    "Refunds that the provider refused for good: customers who are still charged. Must be 0.",
    unit="orders",
)
NOTIFIED = NOTIFICATIONS.counter(
    "orderflow_notifications_total", "Attempts to send a notification.", by.NOTIFICATION, by.NOTIFIED
)

# Calls to other systems
CIRCUIT_OPEN = CALLING.gauge(
    "orderflow_circuit_open",
    "Is 1 while calls are suspended because the other side does not respond.",
    by.EFFECTS,
    unit="state",
)
CIRCUIT_OPENINGS = CALLING.counter("orderflow_circuit_openings_total", "Times that calls were suspended.", by.EFFECTS)

# Integrity, as the reconciler recomputes it from the databases
OVERSOLD = RECONCILING.gauge(
    "orderflow_reconciler_oversold_units",
    "Units sold beyond the stock. Must be 0; missing until the ledger is added up.",
    unit="units",
)
ENDED_TWICE = RECONCILING.gauge(
    "orderflow_reconciler_ended_twice",
    "Final orders whose history does not have exactly one end. Must be 0.",
    unit="orders",
)
DUPLICATE_CHARGES = RECONCILING.gauge(
    "orderflow_reconciler_duplicate_charges",
    "Charges that two orders share, and second charges of an order. Must be 0.",
    unit="orders",
)
DUPLICATE_NOTIFICATIONS = RECONCILING.gauge(
    "orderflow_reconciler_duplicate_notifications", "Notifications recorded more than once. Must be 0.", unit="orders"
)
LEDGER_DRIFT = RECONCILING.gauge(
    "orderflow_reconciler_ledger_drift_units",
    "Difference between stock, its ledger and the reservations. Must be 0; missing until the ledger is added up.",
    unit="units",
)
CHARGE_MISMATCHES = RECONCILING.gauge(
    "orderflow_reconciler_charge_mismatches", "Orders whose charges do not fit their state. Must be 0.", unit="orders"
)
STOCK_MISMATCHES = RECONCILING.gauge(
    "orderflow_reconciler_stock_mismatches",
    "Orders whose reservations do not fit their state. Must be 0.",
    unit="orders",
)
STALE_AVAILABILITY = RECONCILING.gauge(
    "orderflow_reconciler_stale_availability", "SKUs whose stock in the orders API is outdated.", unit="skus"
)
MISSING_NOTIFICATIONS = RECONCILING.gauge(
    "orderflow_reconciler_missing_notifications",
    "Final orders without a notification after the grace period.",
    unit="orders",
)
ORDERS_STUCK = RECONCILING.gauge(
    "orderflow_reconciler_orders_stuck",
    "Orders that are still open 30 s after their hold expired.",
    by.STATE,
    unit="orders",
)
ORDERS_STUCK_AGE = RECONCILING.gauge(
    "orderflow_reconciler_orders_stuck_oldest_age_seconds", "Age of the oldest stuck order.", by.STATE, unit="seconds"
)
QUEUES_UNREAD = RECONCILING.gauge(
    "orderflow_reconciler_unread_queues",
    "Queues that get events and have no consumer, if the reconciler has the management API. Must be 0.",
    unit="queues",
)
RECONCILED_AT = RECONCILING.gauge(
    "orderflow_reconciler_last_run_timestamp_seconds",
    "When the last look of the reconciler ended, in seconds since 1970.",
    unit="timestamp_seconds",
)
LOOK_AGE = RECONCILING.gauge(
    "orderflow_reconciler_look_age_seconds",
    "Time since the last look of the reconciler ended. When it is several intervals, the findings are not exported.",
    unit="seconds",
)
SWEEP_AGE = RECONCILING.gauge(
    "orderflow_reconciler_sweep_age_seconds",
    "Time since the last sweep over all orders ended; before the first, since the start.",
    unit="seconds",
)
RECONCILER_BEHIND = RECONCILING.gauge(
    "orderflow_reconciler_behind_seconds",
    "How much later than they should orders that ended are compared; 0 when the reconciler keeps up.",
    unit="seconds",
)

# The process itself
BUILD = PROCESS.gauge(
    "orderflow_build_info", "Always 1; the labels name the process and its versions.", *by.BUILD_LABELS, unit="info"
)
READY = PROCESS.gauge("orderflow_ready", "Is 1 while the process is ready for work.", unit="state")
LOOP_IDLE = PROCESS.gauge(
    "orderflow_loop_idle_seconds", "Seconds since the last progress of a loop.", by.LOOP, unit="seconds"
)
SPANS_EXPORTED = PROCESS.counter("orderflow_spans_exported_total", "Spans that were exported.")
SPANS_DROPPED = PROCESS.counter("orderflow_spans_dropped_total", "Spans that were not exported.", by.DROP_REASON)

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Metric))
"""Every metric above, in the same order."""


def metric(name: str) -> Metric:
    """The metric with this name, or with a sample of this name; raises KeyError when the catalogue has none."""
    for known in CATALOGUE:
        if name == known.name or name in known.series:
            return known
    raise KeyError(name)
