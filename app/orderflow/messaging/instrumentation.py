# SPDX-License-Identifier: Apache-2.0
"""What the messaging core reports while it works: batches, publishes, calls, connections, the outbox.

Every method does nothing here; telemetry overrides the methods that it needs. They are called from the thread that does
the work, once per batch and never per message, and must neither block nor raise.
"""

from collections.abc import Mapping, Sequence

import msgspec

from orderflow.messaging.broker import Delivery, Failure, Publication


class BatchResult(msgspec.Struct, kw_only=True):
    """How the messages of one batch ended. Positions are those in the batch."""

    done: int = 0
    duplicates: int = 0
    retried: list[tuple[int, str, float]] = []
    """(position, reason, delay in seconds) of each message that was sent to a retry queue."""
    dead: list[tuple[int, str]] = []
    """(position, reason) of each message that was dead-lettered."""
    published: int = 0
    """Events that the batch wrote to the outbox."""
    statements: int = 0
    """SQL statements, begin and commit included."""


class BatchObserver:
    """Follows one received batch; the base class does nothing."""

    __slots__ = ()

    def headers(self, position: int) -> Mapping[str, str]:
        """Trace headers for an event that the message at this position caused; none by default."""
        _ = position
        return {}

    def handled(self, result: BatchResult) -> None:
        """The batch is committed, its copies are confirmed and it is acknowledged."""

    def failed(self, error: BaseException) -> None:
        """Broker or database failed; the batch will be tried again."""


class PublishObserver:
    """Follows the publications that were written to the wire together; the base class does nothing."""

    __slots__ = ()

    def settled(self, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        """The result of every publication is known, ``seconds`` after they were written."""


class CallObserver:
    """Follows one call to an external system, for example the payment provider; the base class does nothing."""

    __slots__ = ()

    def headers(self) -> Mapping[str, str]:
        """Trace headers to send with the call; none by default."""
        return {}

    def finished(self, outcome: str) -> None:
        """The call ended; ``outcome`` is one fixed word."""


class MessagingInstrumentation:
    """Receives the reports of the messaging core; the base class does nothing."""

    def batch_received(self, queue: str, deliveries: Sequence[Delivery]) -> BatchObserver:
        """A batch is about to be decoded; the observer receives what happens to it."""
        _ = queue, deliveries
        return BatchObserver()

    def consumer_paused(self, queue: str, error: BaseException, seconds: float) -> None:
        """A consumer backs off because the broker or the database failed."""

    def created(self, publications: Sequence[Publication]) -> Mapping[int, Mapping[str, str]]:
        """Events became messages, which are about to be stored; trace headers to replace theirs, by position.

        The messages are published after the commit, and lost when there is none.
        """
        _ = publications
        return {}

    def publishing(self, publications: Sequence[Publication]) -> PublishObserver:
        """Publications are written to the wire; the observer receives their confirms."""
        _ = publications
        return PublishObserver()

    def calling(self, operation: str, trace: Mapping[str, str]) -> CallObserver:
        """A call to an external system begins; ``trace`` are the trace headers stored with the work."""
        _ = operation, trace
        return CallObserver()

    def circuit(self, effects: str, *, is_open: bool) -> None:
        """Calls were suspended because the other side did not respond, or go on; also told at the start."""

    def connected(self, role: str, *, connected: bool) -> None:
        """The connection for a role (``publish`` or ``consume``) opened or closed."""

    def blocked(self, *, blocked: bool) -> None:
        """The broker blocked or unblocked publishing."""

    def window(self, *, unconfirmed: int, waiting: int) -> None:
        """Publications on the wire, and those queued behind the window; reported twice a second."""

    def outbox_measured(self, *, rows: int, oldest_seconds: float) -> None:
        """The outbox was counted, without its parked and nacked rows."""

    def outbox_parked(self, rows: int) -> None:
        """So many rows of the outbox are parked, because the broker refuses them for good."""

    def outbox_nacked(self, rows: Mapping[str, int]) -> None:
        """Routing key to the number of its rows that the broker refuses because a queue is full; none: no such key."""

    def relayed(self, count: int) -> None:
        """The relay took rows that were not confirmed: after a crash, a return, a nack or a lost connection."""

    def pruned(self, name: str, rows: int, finished_seconds: float) -> None:
        """So many old rows were deleted; the last complete round ended ``finished_seconds`` ago, in any process."""

    def prune_failed(self, name: str) -> None:
        """Old rows could not be deleted; it is tried again."""

    def leases_taken_over(self, count: int) -> None:
        """Leases of processes that are gone were ended before they expired."""
