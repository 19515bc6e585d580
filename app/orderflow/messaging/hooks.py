# SPDX-License-Identifier: Apache-2.0
"""The life of a message as named moments: what the core tells to whoever watches.

Every hook does nothing here. Telemetry overrides what it wants to see; hooks are called once per batch,
from the thread that does the work, and must neither block nor raise.
"""

from collections.abc import Mapping, Sequence

import msgspec

from orderflow.messaging.broker import Delivery, Failure, Publication


class Outcomes(msgspec.Struct, kw_only=True):
    """How the messages of one batch ended; the positions are those in the batch."""

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


class BatchSpan:
    """Follows one received batch; the base class watches nothing."""

    def headers(self, position: int) -> Mapping[str, str]:
        """Trace headers for an event that the message at this position caused."""
        _ = position
        return {}

    def handled(self, outcomes: Outcomes) -> None:
        """Fires when the batch is committed, its copies are confirmed and it is acknowledged."""

    def failed(self, error: BaseException) -> None:
        """Fires when the surroundings failed and the batch will be tried again."""


class CallSpan:
    """Follows one call to the outside, for example to the payment provider; the base class watches nothing."""

    def headers(self) -> Mapping[str, str]:
        """Trace headers to send along with the call."""
        return {}

    def finished(self, outcome: str) -> None:
        """Fires when the call ended, with one fixed word: how."""


class Hooks:
    """Moments outside of a single batch."""

    def calling(self, operation: str, trace: Mapping[str, str]) -> CallSpan:
        """Fires before a call to the outside, with the trace headers stored beside the work."""
        _ = operation, trace
        return CallSpan()

    def batch_received(self, queue: str, deliveries: Sequence[Delivery]) -> BatchSpan:
        """Fires before a batch is decoded; the span hears how it went on."""
        _ = queue, deliveries
        return BatchSpan()

    def consumer_paused(self, queue: str, error: BaseException, seconds: float) -> None:
        """Fires when a consumer backs off because the surroundings failed."""

    def publishing(self, publications: Sequence[Publication]) -> object:
        """Fires when publications are written to the wire; what it returns comes back in ``settled``."""
        _ = publications
        return None

    def settled(self, token: object, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        """Fires when the fate of a group of publications is known, ``seconds`` after they were written."""

    def connected(self, role: str, *, connected: bool) -> None:
        """Fires when the connection for a role (``publish`` or ``consume``) comes up or goes away."""

    def blocked(self, *, blocked: bool) -> None:
        """Fires when the broker blocks or unblocks publishing."""

    def window(self, *, unconfirmed: int, waiting: int) -> None:
        """Fires now and then with the publications on the wire and those queued behind the window."""

    def outbox_measured(self, *, rows: int, oldest_seconds: float) -> None:
        """Fires when the outbox was counted."""

    def relayed(self, count: int) -> None:
        """Fires when the recovery relay took rows that a crash, a return or a lost connection had left."""
