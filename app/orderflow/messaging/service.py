# SPDX-License-Identifier: Apache-2.0
"""How a service declares itself, and the interface between its handlers and the core.

The broker's topology, its users and their permissions, and the reference documentation are derived from the
declarations alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from orderflow.messaging.event import Event

BACKGROUND_FACTOR = 4
"""How many times as long the batches of a background queue collect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue of a service: which events it gets, and how it is consumed.

    ``partitions`` above 1 spreads the queue by order id over that many queues with one active consumer each,
    so that the events of one order are handled in the order in which they were published.
    """

    name: str
    events: tuple[type[Event], ...]
    partitions: int = 1
    background: bool = False
    """No order waits for its results, so its batches collect ``BACKGROUND_FACTOR`` times as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTable:
    """A table whose rows are leased until the time in column ``until``, by the instance in column ``leased_by``.

    ``key`` are the columns in whose order all transactions lock rows. An index on ``until`` is needed.
    """

    name: str
    key: tuple[str, ...]
    until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service: its queues and the events that it publishes. Its database user and its broker user have its name."""

    name: str
    queues: tuple[Queue, ...]
    publishes: tuple[type[Event], ...]
    processes: Mapping[str, str] = field(default_factory=dict)
    """Process name to one sentence on what it does, for example ``orders-api``."""
    leased: tuple[LeasedTable, ...] = ()
    """Its tables whose rows are leased, beside the outbox: the leases of a dead process end in all of them."""


class Incoming(msgspec.Struct, frozen=True):
    """One decoded message as a handler gets it."""

    message_id: UUID
    event: Event
    retry_count: int
    trace: Mapping[str, str] = {}
    """Trace headers to store with work that continues after the transaction, so that its events join the trace."""


class Done(msgspec.Struct, frozen=True):
    """The message is handled; ``events`` are published once the transaction is committed."""

    events: Sequence[Event] = ()


class Retry(msgspec.Struct, frozen=True):
    """Try the message again later, a bounded number of times; ``reason`` is one fixed word."""

    reason: str


class Reject(msgspec.Struct, frozen=True):
    """The message can never be handled: dead-letter it; ``reason`` is one fixed word."""

    reason: str


Outcome = Done | Retry | Reject
DONE = Done()


class Transaction(Protocol):
    """The open transaction of a handler's state changes."""

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement with ``%(name)s`` parameters; the rows that it returns, if it returns any."""

    @property
    def now(self) -> datetime:
        """The time to write into rows, in UTC; the same for the whole transaction."""

    @property
    def owner(self) -> int:
        """What to write to ``leased_by`` of rows that the transaction leases; see ``LeasedTable``."""


class UnitOfWork(Transaction, Protocol):
    """A transaction together with the events that it publishes: both are committed, or neither."""

    def publish(
        self, event: Event, *, causation_id: UUID | None = None, trace: Mapping[str, str] | None = None
    ) -> None:
        """Store an event with the transaction; it goes to the broker after the commit.

        ``causation_id`` is the id of the message that caused the event; ``trace`` are the trace headers to send.
        """

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call this after the commit, and never after a rollback. The action must neither block nor raise."""


class PrunedPage(msgspec.Struct, frozen=True, kw_only=True):
    """What one page of pruning deleted, where the next page begins, and whether this round has another one."""

    deleted: int
    position: str
    more: bool


class Prunable(Protocol):
    """Rows of which the old ones are deleted (``messaging/pruning.py``)."""

    @property
    def name(self) -> str:
        """What it is, in table ``pruning`` and in the metrics."""

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """Visit at most ``limit`` rows from this position on, and delete the old ones; "" is the very beginning.

        Rows must be read in the order of an index, or the cost of a page grows with the table.
        """


class Handler(Protocol):
    """Applies a batch of messages within one transaction."""

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        """One outcome per message, in the same order.

        It may be called again with the same messages (or with half of them) after a rollback, and messages may
        arrive in any order. What must happen after the commit is stored in a row, never only in memory.
        """
