# SPDX-License-Identifier: Apache-2.0
"""One transaction together with the events that it publishes."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from orderflow.messaging.codec import Outgoing
from orderflow.messaging.event import Event
from orderflow.messaging.postgres.database import Database, SqlTransaction
from orderflow.messaging.publish.outbox import Outbox


class SqlUnitOfWork:
    """An open transaction that also collects events: either everything is committed, or nothing."""

    def __init__(self, transaction: SqlTransaction) -> None:
        self._transaction = transaction
        self._actions: list[Callable[[], None]] = []
        self.outgoing: list[Outgoing] = []

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement with ``%(name)s`` parameters; the rows that it returns, if it returns any."""
        return self._transaction.execute(statement, parameters)

    @property
    def now(self) -> datetime:
        """The time to write into rows, in UTC; the same for the whole transaction."""
        return self._transaction.now

    @property
    def owner(self) -> int:
        """What to write to ``leased_by``."""
        return self._transaction.owner

    @property
    def statements(self) -> int:
        """Statements so far, begin and commit included."""
        return self._transaction.statements

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call this once the transaction is committed, and never if it is not; it must neither block nor raise."""
        self._actions.append(action)

    def publish(
        self,
        event: Event,
        *,
        causation_id: UUID | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> None:
        """See ``service.UnitOfWork``."""
        self.outgoing.append(Outgoing(event=event, causation_id=causation_id, trace=trace or {}))

    def committed(self) -> None:
        """Run the actions that were registered with ``after_commit``."""
        for action in self._actions:
            action()


class UnitOfWorkFactory:
    """Makes units of work over one database connection, for one thread."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self.outbox = outbox

    @contextmanager
    def transaction(self, *, before_commit: Callable[[], None] | None = None) -> Generator[SqlUnitOfWork]:
        """A unit of work; at the end of the block its events are stored, it commits, and they are published.

        ``before_commit`` is the last that happens before the commit; when it raises, the transaction is rolled back.
        Raises what ``Database.transaction`` raises; then nothing was published.
        """
        with self._database.transaction() as transaction:
            work = SqlUnitOfWork(transaction)
            yield work
            change = self.outbox.write(work, work.outgoing)
            if before_commit is not None:
                before_commit()
        self.outbox.committed(change)
        work.committed()

    def delete_confirmed(self) -> None:
        """Delete the rows confirmed since the last commit, release the lost ones; for use without other work."""
        if self.outbox.collect():
            with self.transaction():
                pass

    def close(self) -> None:
        """Close the database connection."""
        self._database.close()
