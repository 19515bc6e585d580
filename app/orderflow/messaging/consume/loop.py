# SPDX-License-Identifier: Apache-2.0
"""The loop of a consumer: receive a batch, apply it in one transaction, settle every message, acknowledge.

Invariants:

- A batch is acknowledged after its commit and after the confirms of its copies, with one multiple-ack.
- Batches of a queue are acknowledged in the order in which they were received.
- While broker or database fail, no message leaves the batch: the loop backs off and repeats the same batch. What was
  committed before the failure is not applied again (``BatchProgress``).
- The loop takes no batch while the publish window has no room.
- It subscribes only after it has committed a write. When the database fails for long, it gives back what it holds, so
  that another process may handle it, and subscribes again after the next write. Each time counts as one delivery of
  these messages, and the time doubles until a batch succeeds: good messages do not reach the queue's delivery limit.

==================================== ==================================================================================
Failure                              Consequence
==================================== ==================================================================================
process killed before the commit     nothing happened; the broker delivers the batch again
process killed after the commit      delivered again; the inbox recognises the messages, the relay publishes the events
database unavailable                 the loop pauses with jittered back-off, up to 2 s, then repeats the batch; after a
                                     minute it gives back all messages, and subscribes after the next successful write
commit without a response            as above, 40 s later (``postgres/connection_watchdog``)
deadlock, serialization failure      the batch is repeated immediately, up to five times; then as above
connection lost before the ack       the ack is dropped; the broker delivers again, the inbox recognises
handler raises, value refused        ``bisect`` halves the batch; the failing message alone is retried or dead-lettered
copies not confirmed in time         only failed copies are published again; the batch stays unacknowledged
==================================== ==================================================================================

On 2 cores with RabbitMQ and PostgreSQL: 8,600 to 10,600 messages/s from queue to confirmed publish, 23 µs of CPU in the
loop's thread and 6 statements for a batch of 250 (``make bench BENCH_FLAGS="--only core"``,
``python -m tests.bench.consumer_core``).
https://www.rabbitmq.com/docs/confirms#consumer-acks-multiple-parameter
"""

import logging
import threading
from dataclasses import dataclass

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.broker import Batch, Consumer, Publication, Publisher
from orderflow.messaging.clock import Clock
from orderflow.messaging.consume.batch_processor import BatchProcessor, BatchProgress
from orderflow.messaging.consume.give_back import GIVE_BACK_SECONDS, GiveBackTimer
from orderflow.messaging.consume.settlement import CopyPublisher, RetryPolicy, dead_letter, retry_copy
from orderflow.messaging.consume.write_proof import prove_write
from orderflow.messaging.errors import GivenUp, InfrastructureError, TransactionAborted
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.pace import Pace

log = logging.getLogger(__name__)

_MAX_ABORTS = 5
"""Consecutive aborted transactions after which the database counts as failing."""
_BURST_SECONDS = 0.005
"""Messages that were sent together arrive within this time, so the first of them waits for the others."""
_IDLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """When a batch is full: by number or by bytes. One that is not begins ``linger_seconds`` after the one before."""

    messages: int
    size_bytes: int
    linger_seconds: float


class ConsumerLoop:
    """Consumes one queue in one thread until it is stopped; then it finishes what it has received."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: Publisher,
        processor: BatchProcessor,
        policy: RetryPolicy,
        instrumentation: MessagingInstrumentation,
        clock: Clock,
        limits: BatchLimits,
        confirm_timeout_seconds: float = 10,
        give_back_seconds: float = GIVE_BACK_SECONDS,
    ) -> None:
        self.name = f"consume {consumer.queue}"
        self.last_progress = clock.monotonic()
        self._consumer = consumer
        self._publisher = publisher
        self._processor = processor
        self._policy = policy
        self._instrumentation = instrumentation
        self._clock = clock
        self._limits = limits
        self._pace = Pace(limits.linger_seconds, clock=clock)
        self._confirm_timeout = confirm_timeout_seconds
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self._backoff = Backoff()
        self._give_back_timer = GiveBackTimer(clock=clock, first_seconds=give_back_seconds)

    def run(self) -> None:
        """Work until stopped and drained. No message makes it raise; an exception ends the process."""
        self._resume()
        while not self._given_up.is_set() and not (self._stopping.is_set() and self._consumer.drained):
            self.last_progress = self._clock.monotonic()
            if self._publisher.room == 0:
                self._clock.wait(self._given_up, 0.005)
                continue
            collecting = self._pace.remaining
            batch = self._consumer.receive(
                limit=self._limits.messages,
                limit_bytes=self._limits.size_bytes,
                linger_seconds=min(_BURST_SECONDS, self._limits.linger_seconds),
                timeout_seconds=collecting or _IDLE_SECONDS,
                collect_seconds=collecting,
            )
            if batch is not None:
                self._pace.begin()
                self._settle(batch)
                self._pace.end()
            elif not collecting:
                self._delete_confirmed()
        if not self._given_up.is_set():
            self._finish()
        self._processor.units_of_work.close()

    def stop(self) -> None:
        """Take no more from the broker, finish what has arrived, return from ``run``."""
        self._consumer.cancel()
        self._stopping.set()

    def give_up(self) -> None:
        """Return from ``run`` without finishing; what is not acknowledged will be delivered again.

        It only waits for a statement that is running in the database.
        """
        self._stopping.set()
        self._given_up.set()

    def _settle(self, batch: Batch) -> None:
        """Apply, settle and acknowledge one batch; repeat it after a pause while broker or database fail.

        While the database fails for long, everything is given back, and the loop waits until it is back.
        """
        observer = self._instrumentation.batch_received(batch.queue, batch.deliveries)
        progress = BatchProgress()
        copies: CopyPublisher | None = None
        aborts = 0
        while not self._given_up.is_set():
            self.last_progress = self._clock.monotonic()
            try:
                if copies is None:
                    self._processor(batch.deliveries, observer, progress, report_progress=self._report_progress)
                    copies = CopyPublisher(self._publisher, self._copies(batch, progress))
                copies.finish(seconds=self._confirm_timeout, given_up=self._given_up)
            except InfrastructureError as error:
                aborts += isinstance(error, TransactionAborted)
                if isinstance(error, TransactionAborted) and aborts <= _MAX_ABORTS:
                    log.info("consumer.transaction_aborted", extra={"queue": batch.queue, "error": str(error)})
                    self._clock.wait(self._given_up, Backoff(maximum=0.1).next())
                else:
                    observer.failed(error)
                    self._pause(batch.queue, error)
                    if copies is None and self._give_back_timer.ended():
                        self._give_back(error)
                        return
            else:
                self._consumer.ack(batch)
                self._backoff.reset()
                self._give_back_timer.reset()
                observer.handled(progress.outcomes)
                return

    def _give_back(self, error: Exception) -> None:
        log.warning("queue.given_back", extra={"queue": self._consumer.queue, "error": str(error)})
        self._consumer.suspend()
        self._resume()

    def _resume(self) -> None:
        """Subscribe as soon as a write is committed, or return when stopped."""
        while not self._stopping.is_set():
            self.last_progress = self._clock.monotonic()
            try:
                with self._processor.units_of_work.transaction() as work:
                    prove_write(work)
            except InfrastructureError as error:
                self._pause(self._consumer.queue, error)
            else:
                self._consumer.resume()
                return

    def _report_progress(self) -> None:
        """Record progress for the watchdog; raises GivenUp when the loop must end immediately."""
        self.last_progress = self._clock.monotonic()
        if self._given_up.is_set():
            raise GivenUp("the process must end immediately")

    def _copies(self, batch: Batch, progress: BatchProgress) -> list[Publication]:
        """The retry copies and dead letters of a batch; adds them to its result."""
        now, publishers = self._clock.now(), self._processor.codec.publishers
        queue = self._processor.inbox.queue  # not the partition: it may be gone when the copy returns
        outcomes, dead, copies = progress.outcomes, list(progress.rejects), []
        for position, reason in progress.retries:
            delivery = batch.deliveries[position]
            delay = self._policy.delay(delivery.properties, now)
            if delay is None:
                dead.append((position, reason, "the retries are used up"))
                continue
            outcomes.retried.append((position, reason, delay))
            origin = publishers.origin(delivery)
            copies.append(retry_copy(delivery, origin=origin, queue=queue, reason=reason, delay_seconds=delay, now=now))
        for position, reason, detail in dead:
            outcomes.dead.append((position, reason))
            delivery = batch.deliveries[position]
            origin = publishers.origin(delivery)
            copies.append(dead_letter(delivery, origin=origin, queue=queue, reason=reason, detail=detail, now=now))
        return copies

    def _pause(self, queue: str, error: Exception) -> None:
        seconds = self._backoff.next()
        log.warning("consumer.paused", extra={"queue": queue, "seconds": round(seconds, 3), "error": str(error)})
        self._instrumentation.consumer_paused(queue, error, seconds)
        self._clock.wait(self._given_up, seconds)

    def _delete_confirmed(self) -> None:
        try:
            self._processor.units_of_work.delete_confirmed()
        except InfrastructureError as error:
            self._pause(self._consumer.queue, error)

    def _finish(self) -> None:
        """Wait for the last confirms, up to the confirm timeout, and delete their rows."""
        for _ in range(round(self._confirm_timeout / 0.1)):
            if self._processor.units_of_work.outbox.wait(0.1) or self._given_up.is_set():
                break
        if not self._given_up.is_set():
            self._delete_confirmed()
