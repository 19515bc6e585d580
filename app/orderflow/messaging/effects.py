# SPDX-License-Identifier: Apache-2.0
"""Calls to external systems, between two transactions.

Invariants:

- The transaction of a message only records that a call is due. No transaction is open while a call is made.
- A task is claimed under a lease: no other process makes its call before the lease ends. The lease is longer than any
  call, and ends early when its owner is gone (``lease_sweeper``).
- Results are recorded together in one transaction. Recording a result again changes nothing.
- At most ``concurrency`` calls are in flight.
- While the other side does not respond, no calls are made but a probe a second (``circuit_breaker``). Probes count as
  no attempts, and after the first response everything that waits is due.

==================================== ==================================================================================
Failure                              Consequence
==================================== ==================================================================================
process killed during a call         within a second another process calls again, with the same idempotency key
other side does not respond          its tasks wait; calls continue within a second after it responds again
database unavailable                 calls in flight continue; results wait in memory, and leases protect the rows
a result cannot be recorded          ``bisect`` isolates it; it is logged and its task is claimed again after the lease
``perform`` raises                   a bug: it is logged, and the task is claimed again after the lease
stop                                 nothing is claimed; calls in flight have ``drain_seconds``, then are cancelled
==================================== ==================================================================================

A claim costs three statements and recording five, begin and commit included, whatever the number of tasks
(tests/integration/services/payments/test_charges.py). The runner is woken after the commit that adds a task, so a call
begins within milliseconds; a missed wake-up delays it by ``interval_seconds``.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.call_pool import CallPool
from orderflow.messaging.circuit_breaker import CircuitBreaker
from orderflow.messaging.clock import Clock
from orderflow.messaging.consume.bisect import bisect
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.pace import Pace
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.service import Transaction, UnitOfWork

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")
_TAKE_SECONDS = 0.05


class Effect(Protocol[Task, Result]):
    """One kind of call: where its tasks come from, how it is made, and what its result changes."""

    def resources(self) -> AbstractAsyncContextManager[object]:
        """What the calls share, for example connections; entered in their event loop before the first call."""

    def claim(self, transaction: Transaction, *, limit: int, lease: timedelta) -> Sequence[Task]:
        """Up to ``limit`` due tasks, leased: no other process claims them before the lease expires."""

    async def perform(self, task: Task) -> Result:
        """Make the call. A failure of the external system is a result; after an exception the task is claimed again."""

    def responded(self, result: Result) -> bool:
        """False when the other side gave no response: it could not be reached, or did not answer in time."""

    def record(self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[Task, Result]]) -> None:
        """Record results, set-based. The same result may be recorded again: it must then change nothing."""

    def record_without_response(self, unit_of_work: UnitOfWork, pairs: Sequence[tuple[Task, Result]]) -> None:
        """As ``record``, while calls are suspended: the attempts do not count, and the tasks are due again at once."""

    def resume(self, transaction: Transaction) -> None:
        """Tasks that wait after a failed attempt are due now: the other side responds again."""


class EffectRunner(Generic[Task, Result]):
    """Runs one kind of call, with one thread for the database and one for the calls.

    It claims tasks every ``interval_seconds``, and immediately after ``wake``. While there is work all the time, it
    collects results and tasks for ``linger_seconds``. ``lease_seconds`` must be longer than any call. At most
    ``concurrency`` calls are open.
    """

    def __init__(
        self,
        name: str,
        effects: Effect[Task, Result],
        unit_of_work: UnitOfWorkFactory,
        *,
        clock: Clock,
        instrumentation: MessagingInstrumentation,
        concurrency: int,
        lease_seconds: float,
        interval_seconds: float = 0.25,
        linger_seconds: float = 0.04,
        drain_seconds: float = 5.0,
    ) -> None:
        self.name = name
        self._effects = effects
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._concurrency = concurrency
        self._lease = timedelta(seconds=lease_seconds)
        self._interval = interval_seconds
        self._pace = Pace(linger_seconds, clock=clock)
        self._drain = drain_seconds
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self._unrecorded: list[tuple[Task, Result]] = []
        self._instrumentation = instrumentation
        self._breaker = CircuitBreaker(clock=clock)
        self._resuming = False
        self._backoff = Backoff()
        self._last_turn = clock.monotonic()
        self._calls = CallPool[Task, Result](
            effects.perform, effects.resources, wake=self._wake, clock=clock, name=name
        )

    @property
    def last_progress(self) -> float:
        """Monotonic time of the last progress of both threads: the earlier of the two."""
        return min(self._last_turn, self._calls.last_tick)

    def wake(self) -> None:
        """A task became due: claim now. Never blocks; call it after the commit."""
        self._wake.set()

    def run(self) -> None:
        """Work until stopped, then wait up to ``drain_seconds`` for the calls in flight and cancel the rest.

        Waits and tries again after an InfrastructureError. Raises the other errors of ``claim``, and RuntimeError when
        the event loop of the calls has failed.
        """
        self._calls.start()
        self._instrumentation.circuit(self.name, is_open=False)
        try:
            while not self._stopping.is_set():
                if self._wake.wait(self._interval):
                    self._clock.wait(self._stopping, self._pace.remaining)
                    self._pace.begin()
                self._turn(claiming=not self._stopping.is_set())
                self._pace.end()
            self._finish()
        finally:
            self._calls.stop()
            self._unit_of_work.close()

    def stop(self) -> None:
        """Claim nothing more, finish what is in flight, return from ``run``."""
        self._stopping.set()
        self._wake.set()

    def give_up(self) -> None:
        """Return from ``run`` immediately; what is in flight will be claimed again."""
        self._given_up.set()
        self.stop()

    def _turn(self, *, claiming: bool) -> None:
        """Record what has ended and claim what is due, in one transaction; begin the calls after its commit."""
        self._last_turn = self._clock.monotonic()
        self._collect()
        room = self._breaker.room(self._concurrency - self._calls.in_flight) if claiming else 0
        if not (room or self._unrecorded):
            return
        try:
            tasks = self._transact(self._unrecorded, room)
        except InfrastructureError as error:
            log.warning("effects.paused", extra={"effects": self.name, "error": str(error)})
            self._clock.wait(self._given_up if self._stopping.is_set() else self._stopping, self._backoff.next())
            return
        self._unrecorded, self._resuming = [], False
        self._backoff.reset()
        self._breaker.began(len(tasks))
        self._calls.submit(tasks)

    def _collect(self) -> None:
        self._wake.clear()
        ended = self._calls.take()
        for _, result in ended:
            if self._breaker.ended(responded=self._effects.responded(result)):
                self._report_circuit()
        self._unrecorded += ended

    def _report_circuit(self) -> None:
        is_open = self._breaker.is_open
        self._resuming = not is_open
        log.warning("circuit.opened" if is_open else "circuit.closed", extra={"effects": self.name})
        self._instrumentation.circuit(self.name, is_open=is_open)

    def _transact(self, pairs: Sequence[tuple[Task, Result]], room: int) -> Sequence[Task]:
        try:
            with self._unit_of_work.transaction() as work:
                self._record_pairs(work, pairs)
                if self._resuming:
                    self._effects.resume(work)
                # Claim after recording: a claim skips locked rows, so this order never waits while it holds locks.
                return self._effects.claim(work, limit=room, lease=self._lease) if room else ()
        except InfrastructureError:
            raise
        except Exception:
            if not pairs:
                raise
            bisect(pairs, self._record, self._log_failure)
            return ()

    def _record(self, pairs: Sequence[tuple[Task, Result]]) -> None:
        with self._unit_of_work.transaction() as work:
            self._record_pairs(work, pairs)

    def _record_pairs(self, work: UnitOfWork, pairs: Sequence[tuple[Task, Result]]) -> None:
        silent = [pair for pair in pairs if not self._effects.responded(pair[1])] if self._breaker.is_open else []
        if silent:
            self._effects.record_without_response(work, silent)
            pairs = [pair for pair in pairs if self._effects.responded(pair[1])]
        if pairs:
            self._effects.record(work, pairs)

    def _log_failure(self, pair: tuple[Task, Result], error: Exception) -> None:
        log.error("effects.unrecorded", exc_info=error, extra={"effects": self.name, "task": type(pair[0]).__name__})

    def _finish(self) -> None:
        deadline = self._clock.monotonic() + self._drain
        while self._calls.in_flight or self._unrecorded:
            if self._given_up.is_set() or self._clock.monotonic() >= deadline:
                log.warning("effects.unfinished", extra={"effects": self.name, "calls": self._calls.in_flight})
                break
            self._wake.wait(_TAKE_SECONDS)
            self._turn(claiming=False)
        if not self._given_up.is_set():
            self._delete_confirmed()

    def _delete_confirmed(self) -> None:
        self._unit_of_work.outbox.wait(2)
        try:
            self._unit_of_work.delete_confirmed()
        except InfrastructureError as error:
            log.warning("effects.delete_failed", extra={"effects": self.name, "error": str(error)})
