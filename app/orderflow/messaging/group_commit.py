# SPDX-License-Identifier: Apache-2.0
"""Applies requests that arrive together in one transaction.

A request can be withdrawn until the commit of its transaction begins. So whoever gives up waiting knows whether the
request may still be applied.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from orderflow.messaging.clock import Clock
from orderflow.messaging.consume.bisect import bisect
from orderflow.messaging.errors import CommitInDoubt, DatabaseUnavailable, InfrastructureError, TransactionAborted
from orderflow.messaging.pace import Pace
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Result = TypeVar("Result")
_MAX_ABORTS = 5


class Overloaded(Exception):
    """Too many requests wait, or they wait for too long, or the writer has stopped; nothing was done."""


class _Withdrawn(InfrastructureError):
    """Requests of the transaction were withdrawn before its commit: it is rolled back, and repeated without them."""


class GroupCommit(Generic[Request, Result]):
    """Applies requests in groups, in one thread: while one group commits, the next one is collected.

    A group that is not full begins ``linger_seconds`` after the one before, or at once after a time without requests.
    ``apply`` gets the requests and the open unit of work, and returns one result per request. It may be called
    again with the same requests, or with half of them, after a rollback.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        apply: Callable[[Sequence[Request], SqlUnitOfWork], Sequence[Result]],
        *,
        clock: Clock,
        name: str = "write",
        group_size: int = 100,
        max_waiting: int = 2000,
        max_wait_seconds: float = 1.0,
        linger_seconds: float = 0.02,
    ) -> None:
        self.name = name
        self.last_progress = clock.monotonic()
        self._unit_of_work = unit_of_work
        self._apply = apply
        self._clock = clock
        self._group_size = group_size
        self._pace = Pace(linger_seconds, clock=clock)
        self._max_wait_seconds = max_wait_seconds
        self._waiting: queue.Queue[tuple[Request, Future[Result], float]] = queue.Queue(maxsize=max_waiting)
        """Each with the time when it was submitted."""
        self._stopping = threading.Event()
        self._submit_lock = threading.Lock()
        self._closed = False
        self._commit_lock = threading.Lock()
        self._withdrawn = set[Future[Result]]()
        """Withdrawn while their transaction was open."""
        self._committing = frozenset[Future[Result]]()
        """Those whose commit has begun; kept when it is unknown how it ended."""

    def submit(self, request: Request) -> Future[Result]:
        """Queue a request. Its future gets the result after the commit, or the error of this request.

        Raises Overloaded when too many requests wait, one has waited for ``max_wait_seconds``, or ``run`` has ended: to
        refuse at once is better than to let a client wait for nothing. After CommitInDoubt in the future it is unknown
        whether the request was applied: the caller must repeat it with the same idempotency key. After any other
        InfrastructureError it was not applied.
        """
        future: Future[Result] = Future()
        with self._submit_lock:
            if self._closed:
                raise Overloaded("the writer has stopped")
            now = self._clock.monotonic()
            if (waited := now - self._oldest(now)) > self._max_wait_seconds:
                raise Overloaded(f"a request has waited for {waited:.1f} s")
            try:
                self._waiting.put_nowait((request, future, now))
            except queue.Full:
                raise Overloaded(f"{self._waiting.maxsize} requests wait already") from None
        return future

    def _oldest(self, now: float) -> float:
        """When the first of the requests that wait was submitted; now when none waits."""
        with self._waiting.mutex:
            return self._waiting.queue[0][2] if self._waiting.queue else now

    def withdraw(self, future: Future[Result]) -> bool:
        """Give up a request: true when it is not applied and never will be, false when its commit has begun."""
        with self._commit_lock:
            if future.done() or future in self._committing:
                return False
            if not future.cancel():  # it is being applied
                self._withdrawn.add(future)
            return True

    def run(self) -> None:
        """Apply what is submitted until stopped and nothing waits."""
        while not self._finished():
            self.last_progress = self._clock.monotonic()
            group = self._group()
            if group:
                self._commit(group)
                self._end_commit()
                self._pace.end()
            else:
                self._delete_confirmed()
        self._unit_of_work.outbox.wait(2)
        self._delete_confirmed()
        self._unit_of_work.close()

    def stop(self) -> None:
        """Finish what was submitted, then return from ``run``."""
        self._stopping.set()

    def _finished(self) -> bool:
        """True when stopped and the queue is empty; from then on ``submit`` raises Overloaded."""
        with self._submit_lock:
            self._closed = self._stopping.is_set() and self._waiting.empty()
            return self._closed

    def _group(self) -> list[tuple[Request, Future[Result]]]:
        group = []
        try:
            group.append(self._waiting.get(timeout=0.05 if self._stopping.is_set() else 0.2))
            if self._waiting.qsize() + 1 < self._group_size and (collecting := self._pace.remaining):
                self._clock.wait(self._stopping, collecting)
            self._pace.begin()
            while len(group) < self._group_size:
                group.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return [(request, future) for request, future, _ in group if future.set_running_or_notify_cancel()]

    def _commit(self, group: Sequence[tuple[Request, Future[Result]]]) -> None:
        undecided = list(group)

        def attempt(part: Sequence[tuple[Request, Future[Result]]]) -> None:
            for (_, future), result in zip(part, self._transact(part), strict=True):
                future.set_result(result)
            del undecided[: len(part)]

        def on_failure(item: tuple[Request, Future[Result]], error: Exception) -> None:
            item[1].set_exception(error)
            del undecided[:1]

        aborts = 0
        while aborts < _MAX_ABORTS:
            try:
                bisect(list(undecided), attempt, on_failure)
            except _Withdrawn:
                self._drop_withdrawn(undecided)
            except TransactionAborted:
                aborts += 1
            except InfrastructureError as error:
                self._fail(undecided, error)
                return
            else:
                return
        self._fail(undecided, TransactionAborted(f"aborted {_MAX_ABORTS} times in a row"))

    def _transact(self, part: Sequence[tuple[Request, Future[Result]]]) -> Sequence[Result]:
        """Apply requests in one transaction; when it raises, ``_committing`` are those that may have been applied."""
        begin_commit = partial(self._begin_commit, [future for _, future in part])
        try:
            with self._unit_of_work.transaction(before_commit=begin_commit) as work:
                results = self._apply([request for request, _ in part], work)
                if len(results) != len(part):
                    raise RuntimeError(f"{self._apply!r} returned {len(results)} results for {len(part)} requests")
        except DatabaseUnavailable:
            raise
        except BaseException:
            self._committing = frozenset()
            raise
        return results

    def _begin_commit(self, futures: Sequence[Future[Result]]) -> None:
        """From now on these cannot be withdrawn; raises _Withdrawn when one of them was."""
        with self._commit_lock:
            if not self._withdrawn.isdisjoint(futures):
                raise _Withdrawn("requests were withdrawn")
            self._committing = frozenset(futures)

    def _drop_withdrawn(self, undecided: list[tuple[Request, Future[Result]]]) -> None:
        with self._commit_lock:
            undecided[:] = [item for item in undecided if item[1] not in self._withdrawn]
            self._withdrawn.clear()

    def _fail(self, items: Sequence[tuple[Request, Future[Result]]], error: InfrastructureError) -> None:
        log.warning("writer.failed", extra={"requests": len(items), "error": str(error)})
        in_doubt = CommitInDoubt(str(error))
        for _, future in items:
            future.set_exception(in_doubt if future in self._committing else error)

    def _end_commit(self) -> None:
        """Every request of the group has its result, or was withdrawn."""
        with self._commit_lock:
            self._committing = frozenset()
            self._withdrawn.clear()

    def _delete_confirmed(self) -> None:
        try:
            self._unit_of_work.delete_confirmed()
        except InfrastructureError as error:
            log.warning("writer.delete_failed", extra={"error": str(error)})
            self._clock.wait(self._stopping, 0.5)
