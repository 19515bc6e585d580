# SPDX-License-Identifier: Apache-2.0
"""Records the reports of the messaging core, once per batch. Metrics are looked up in advance."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.broker import Delivery, Failure, Publication
from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import BatchObserver, BatchResult, PublishObserver
from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry

OCCURRED_AT = "x-occurred-at"


class QueueRecorder:
    """The metrics of one queue, and the batches that are being handled."""

    def __init__(self, queue: str, registry: MetricRegistry, clock: Clock) -> None:
        self.queue = queue
        self.clock = clock
        self.open: dict[int, float] = {}
        """The time of the oldest event of each batch that is being handled, in seconds since 1970."""
        counter, histogram = registry.counter, registry.histogram
        self.registry = registry
        self.consumed = counter(catalogue.CONSUMED, queue)
        self.consumed_bytes = counter(catalogue.CONSUMED_BYTES, queue)
        self.redelivered = counter(catalogue.REDELIVERED, queue)
        self.without_user_id = counter(catalogue.WITHOUT_USER_ID, queue)
        self.handled = counter(catalogue.HANDLED, queue)
        self.duplicates = counter(catalogue.DUPLICATES, queue)
        self.events_stored = counter(catalogue.EVENTS_STORED, queue)
        self.statements = counter(catalogue.STATEMENTS, queue)
        self.batches_failed = counter(catalogue.BATCHES_FAILED, queue)
        self.batch_messages = histogram(catalogue.BATCH_MESSAGES, queue)
        self.batch_seconds = histogram(catalogue.BATCH_SECONDS, queue)
        self.message_age = histogram(catalogue.MESSAGE_AGE, queue)
        registry.gauge(catalogue.OLDEST_AGE, queue).set_function(self.oldest_age)

    def oldest_age(self) -> float:
        """Seconds since the oldest event that is being handled; 0 when there is none."""
        starts = list(self.open.values())
        return max(0.0, self.clock.now().timestamp() - min(starts)) if starts else 0.0


class BatchRecorder(BatchObserver):
    """Counts one batch."""

    __slots__ = ("_queue", "_started")

    def __init__(self, queue: QueueRecorder, deliveries: Sequence[Delivery]) -> None:
        self._queue = queue
        self._started = queue.clock.monotonic()
        now = queue.clock.now().timestamp()
        ages = [max(0.0, now - occurred_at(delivery, now)) for delivery in deliveries]
        queue.open[id(self)] = now - max(ages, default=0.0)
        queue.message_age.observe_all(ages)
        queue.consumed.inc(len(deliveries))
        queue.consumed_bytes.inc(sum([len(delivery.body) for delivery in deliveries]))
        queue.batch_messages.observe(len(deliveries))
        redelivered = sum([delivery.redelivered for delivery in deliveries])
        if redelivered:
            queue.redelivered.inc(redelivered)
        without_user_id = sum([delivery.user_id is None for delivery in deliveries])
        if without_user_id:
            queue.without_user_id.inc(without_user_id)

    def handled(self, outcomes: BatchResult) -> None:
        """Count how the messages ended."""
        queue = self._queue
        queue.open.pop(id(self), None)
        queue.batch_seconds.observe(queue.clock.monotonic() - self._started)
        queue.handled.inc(outcomes.done)
        queue.duplicates.inc(outcomes.duplicates)
        queue.events_stored.inc(outcomes.published)
        queue.statements.inc(outcomes.statements)
        for _, reason, _ in outcomes.retried:
            queue.registry.counter(catalogue.RETRIED, queue.queue, reason).inc()
        for _, reason in outcomes.dead:
            queue.registry.counter(catalogue.DEAD_LETTERED, queue.queue, reason).inc()

    def failed(self, error: BaseException) -> None:
        """Count the failed attempt; the batch is still being handled."""
        _ = error
        self._queue.batches_failed.inc()


class ConfirmRecorder(PublishObserver):
    """Counts confirms with their latency, and failures."""

    __slots__ = ("_confirmed", "_registry", "_seconds")

    def __init__(self, registry: MetricRegistry) -> None:
        self._registry = registry
        self._confirmed = registry.counter(catalogue.CONFIRMED)
        self._seconds = registry.histogram(catalogue.CONFIRM_SECONDS)

    def settled(self, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        """Count one group of publications."""
        if confirmed:
            self._confirmed.inc(confirmed)
            self._seconds.observe(seconds, confirmed)
        for failure, count in failures.items():
            self._registry.counter(catalogue.PUBLISH_FAILURES, failure.value).inc(count)


class Recorder(Instrumentation):
    """Records the metrics of consuming and publishing."""

    def __init__(self, registry: MetricRegistry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._queues: dict[str, QueueRecorder] = {}
        self._outbox_measured: tuple[float, float] | None = None
        self._nacked: set[str] = set()
        self._published = registry.counter(catalogue.PUBLISHED)
        self._confirms = ConfirmRecorder(registry)
        self._unconfirmed = registry.gauge(catalogue.UNCONFIRMED)
        self._waiting = registry.gauge(catalogue.WAITING)

    def watch(self, queues: Sequence[str]) -> None:
        """Create the metrics of these queues before their first batch."""
        for queue in queues:
            self._queues[queue] = QueueRecorder(queue, self._registry, self._clock)

    def batch_received(self, queue: str, deliveries: Sequence[Delivery]) -> BatchRecorder:
        """Count the batch as received."""
        if queue not in self._queues:
            self.watch([queue])
        return BatchRecorder(self._queues[queue], deliveries)

    def consumer_paused(self, queue: str, error: BaseException, seconds: float) -> None:
        """Count the pause, with the error as its reason."""
        _ = seconds
        self._registry.counter(catalogue.PAUSES, queue, snake_case(type(error).__name__)).inc()

    def publishing(self, publications: Sequence[Publication]) -> PublishObserver:
        """Count the publications that are written to the wire."""
        self._published.inc(len(publications))
        return self._confirms

    def circuit(self, effects: str, *, is_open: bool) -> None:
        """Set the state of a circuit, and count how often it opened."""
        self._registry.gauge(catalogue.CIRCUIT_OPEN, effects).set(is_open)
        openings = self._registry.counter(catalogue.CIRCUIT_OPENINGS, effects)
        if is_open:
            openings.inc()

    def connected(self, role: str, *, connected: bool) -> None:
        """Set the state of a connection."""
        self._registry.gauge(catalogue.CONNECTED, role).set(connected)
        if connected:
            self._registry.counter(catalogue.CONNECTS, role).inc()

    def blocked(self, *, blocked: bool) -> None:
        """Set whether publishing is blocked."""
        self._registry.gauge(catalogue.BLOCKED).set(blocked)

    def window(self, *, unconfirmed: int, waiting: int) -> None:
        """Set the numbers of unconfirmed and waiting publications."""
        self._unconfirmed.set(unconfirmed)
        self._waiting.set(waiting)

    def outbox_measured(self, *, rows: int, oldest_seconds: float) -> None:
        """Set the size of the outbox and the age of its oldest row."""
        self._registry.gauge(catalogue.OUTBOX_ROWS).set(rows)
        if self._outbox_measured is None:
            self._registry.gauge(catalogue.OUTBOX_AGE).set_function(self._outbox_age)
        self._outbox_measured = (oldest_seconds, self._clock.monotonic())

    def outbox_parked(self, rows: int) -> None:
        """Set the number of parked rows."""
        self._registry.gauge(catalogue.OUTBOX_PARKED).set(rows)

    def outbox_nacked(self, rows: Mapping[str, int]) -> None:
        """Set the number of nacked rows of each routing key that has any, and of those that had."""
        for key in self._nacked | rows.keys():
            self._registry.gauge(catalogue.OUTBOX_NACKED, key).set(rows.get(key, 0))
        self._nacked |= rows.keys()

    def relayed(self, count: int) -> None:
        """Count relayed rows."""
        self._registry.counter(catalogue.RELAYED).inc(count)

    def pruned(self, name: str, rows: int, finished_seconds: float) -> None:
        """Count deleted rows, and show the growing time since the last complete round."""
        self._registry.counter(catalogue.PRUNED, name).inc(rows)
        finished_at = self._clock.monotonic() - finished_seconds
        self._registry.gauge(catalogue.PRUNED_AGE, name).set_function(lambda: self._clock.monotonic() - finished_at)

    def prune_failed(self, name: str) -> None:
        """Count a failed attempt to delete old rows."""
        self._registry.counter(catalogue.PRUNE_FAILURES, name).inc()

    def leases_taken_over(self, count: int) -> None:
        """Count leases that ended early."""
        self._registry.counter(catalogue.TAKEN_OVER).inc(count)

    def _outbox_age(self) -> float:
        """The measured age plus the time since the measurement, because the database may be unavailable."""
        if self._outbox_measured is None or self._outbox_measured[0] <= 0:
            return 0.0
        age, measured_at = self._outbox_measured
        return age + self._clock.monotonic() - measured_at


def occurred_at(delivery: Delivery, default: float) -> float:
    """When the event of a delivery occurred, in seconds since 1970: from its header, else its timestamp property."""
    text = delivery.properties.headers.get(OCCURRED_AT)
    if isinstance(text, str):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    timestamp = delivery.properties.timestamp
    return default if timestamp is None else float(timestamp)


def snake_case(name: str) -> str:
    """The name of a class as a label value: ``BrokerUnavailable`` is ``broker_unavailable``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
