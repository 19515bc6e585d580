# SPDX-License-Identifier: Apache-2.0
"""Applies one batch: decode, drop duplicates, handle in one transaction, collect the retries and the rejects."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from orderflow.messaging.broker import Delivery
from orderflow.messaging.codec import Codec
from orderflow.messaging.consume.bisect import bisect
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.errors import BadData, MalformedMessage
from orderflow.messaging.event import Event
from orderflow.messaging.instrumentation import BatchObserver, BatchResult
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from orderflow.messaging.service import Done, Handler, Incoming, Outcome, Reject, Retry

log = logging.getLogger(__name__)

Item = tuple[int, Incoming]
"""A decoded message and its position in the batch."""


@dataclass(slots=True)
class BatchProgress:
    """The results of the messages of one batch so far, by position; kept when the batch is applied again."""

    outcomes: BatchResult = field(default_factory=BatchResult)
    retries: list[tuple[int, str]] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    """(position, reason, detail)"""
    settled: set[int] = field(default_factory=set)
    """Positions with a final result: they are skipped when the batch is applied again."""

    def reject(self, position: int, reason: str, detail: str) -> None:
        """Add a message that is to be dead-lettered."""
        self.rejects.append((position, reason, detail))
        self.settled.add(position)

    def retry(self, position: int, reason: str) -> None:
        """Add a message that is to be retried."""
        self.retries.append((position, reason))
        self.settled.add(position)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProcessor:
    """Applies batches of one queue: each message once, all of a batch in one transaction."""

    handler: Handler
    accepted: tuple[type[Event], ...]
    codec: Codec
    inbox: Inbox
    units_of_work: UnitOfWorkFactory

    def __call__(
        self,
        deliveries: Sequence[Delivery],
        span: BatchObserver,
        progress: BatchProgress | None = None,
        *,
        report_progress: Callable[[], None] = lambda: None,
    ) -> BatchProgress:
        """Apply a batch; on return everything that is neither a retry nor a reject is committed.

        Raises InfrastructureError when broker or database failed: the batch may be applied again with the same
        ``progress``. ``report_progress`` is called before each transaction; a batch full of failing messages needs
        two for each of them.
        """
        progress = BatchProgress() if progress is None else progress
        items = self._decoded(deliveries, span, progress)

        def apply(part: Sequence[Item]) -> None:
            report_progress()
            self._apply(part, progress)

        def on_failure(item: Item, error: Exception) -> None:
            if isinstance(error, BadData):
                progress.reject(item[0], "bad_data", "the database refused a value")
            else:
                progress.retry(item[0], "handler_error")
            log.warning("message.isolated", exc_info=error, extra={"message_id": str(item[1].message_id)})

        bisect(items, apply, on_failure)
        return progress

    def _decoded(self, deliveries: Sequence[Delivery], span: BatchObserver, progress: BatchProgress) -> list[Item]:
        """The messages that can be read, each id once, without those that are settled."""
        items: list[Item] = []
        seen: set[UUID] = set()
        for position, delivery in enumerate(deliveries):
            if position in progress.settled:
                continue
            try:
                incoming = self.codec.incoming(delivery, self.accepted, span.headers(position))
            except MalformedMessage as error:
                progress.reject(position, error.reason, error.detail)
                continue
            if incoming.message_id in seen:
                progress.outcomes.duplicates += 1
                progress.settled.add(position)
                continue
            seen.add(incoming.message_id)
            items.append((position, incoming))
        return items

    def _apply(self, items: Sequence[Item], progress: BatchProgress) -> None:
        """One transaction: claim, handle, store events. ``progress`` changes only after the commit."""
        with self.units_of_work.transaction() as work:
            known = self.inbox.claim(work, [incoming.message_id for _, incoming in items])
            new = [item for item in items if item[1].message_id not in known] if known else items
            retries, rejects = self._apply_outcomes(new, self._handle(new, work), work)
            again = {retry[0] for retry in retries} | {reject[0] for reject in rejects}
            if again:
                self.inbox.forget(work, [incoming.message_id for position, incoming in new if position in again])
        progress.settled.update(position for position, _ in items)
        progress.retries += retries
        progress.rejects += rejects
        progress.outcomes.done += len(new) - len(again)
        progress.outcomes.duplicates += len(known)
        progress.outcomes.published += len(work.outgoing)
        progress.outcomes.statements += work.statements

    def _apply_outcomes(
        self, items: Sequence[Item], outcomes: Sequence[Outcome], work: SqlUnitOfWork
    ) -> tuple[list[tuple[int, str]], list[tuple[int, str, str]]]:
        """Publish the events of handled messages; the retries and the rejects, by position.

        Raises TypeError for a value that is not an outcome; the transaction is then rolled back.
        """
        retries: list[tuple[int, str]] = []
        rejects: list[tuple[int, str, str]] = []
        for (position, incoming), outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, Done):
                for event in outcome.events:
                    work.publish(event, causation_id=incoming.message_id, trace=incoming.trace)
            elif isinstance(outcome, Retry):
                retries.append((position, outcome.reason))
            elif isinstance(outcome, Reject):
                rejects.append((position, outcome.reason, "refused by the handler"))
            else:
                raise TypeError(f"{self.handler!r} returned {outcome!r}, which is not an outcome")
        return retries, rejects

    def _handle(self, items: Sequence[Item], work: SqlUnitOfWork) -> Sequence[Outcome]:
        if not items:
            return []
        outcomes = self.handler.handle([incoming for _, incoming in items], work)
        if len(outcomes) != len(items):
            raise RuntimeError(f"{self.handler!r} returned {len(outcomes)} outcomes for {len(items)} messages")
        return outcomes
