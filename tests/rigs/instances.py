# SPDX-License-Identifier: Apache-2.0
"""Processes as the database sees them: connections that hold the lock of an instance, and a sweeper."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Self

import psycopg

from local.eventually import eventually
from orderflow.events import OrderRejected
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.lease_sweeper import LeaseSweeper
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.instance import Instance
from orderflow.messaging.publish import outbox
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.service import LeasedTable
from orderflow.services.payments import store
from tests.builders import an_event
from tests.rigs.consumer import CODEC, one
from tests.rigs.scripted_broker import ScriptedPublisher

_LOCKS = "select count(*) from pg_locks where locktype = 'advisory' and (classid::bigint << 32 | objid::bigint) = {id}"


class Member(MessagingInstrumentation):
    """One process: two connections that lease rows, and a sweeper with a clock that the test moves."""

    def __init__(self, url: str, *, service: str = "test", tables: Sequence[LeasedTable] = ()) -> None:
        self._url = url
        self.instance = Instance(service, "member")
        self.databases = [Database(url, application_name="member", instance=self.instance) for _ in range(3)]
        self.clock = ManualClock()
        self.woken = 0
        self.taken_over = 0
        self.sweeper = LeaseSweeper(
            self.databases[0],
            (outbox.LEASED, *tables),
            own=self.instance,
            wake=[self._woken],
            instrumentation=self,
            clock=self.clock,
        )

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def connect(self) -> None:
        """Open every connection that is not open. One that was lost is noticed when it is used, as in a process."""
        for database in self.databases:
            with suppress(DatabaseUnavailable):
                database.execute("select 1")
            database.execute("select 1")

    def die(self) -> None:
        """What is left of a killed process: connections that were closed, and the server has noticed it."""
        for database in self.databases:
            database.close()
        eventually(lambda: one(self._url, _LOCKS.format(id=self.instance.id)) == 0, 60, what="an end of the sessions")

    def leave_rows(self, count: int, *, lease_seconds: float = 60) -> None:
        """Commit so many events whose confirms never come."""
        publisher = ScriptedPublisher()
        publisher.holding = True
        work = UnitOfWorkFactory(self.databases[1], Outbox(publisher, CODEC, lease_seconds=lease_seconds))
        with work.transaction() as transaction:
            for _ in range(count):
                transaction.publish(an_event(OrderRejected))

    def claim_charges(self, *, limit: int = 100, lease_seconds: float = 60) -> int:
        """Claim calls that are due, and make none."""
        with self.databases[1].transaction() as transaction:
            return len(store.claim(transaction, limit=limit, lease=timedelta(seconds=lease_seconds)))

    def sweep_for(self, seconds: float) -> int:
        """Sweep four times a second for so long; how many leases were taken over."""
        before = self.taken_over
        for _ in range(round(seconds * 4) + 1):
            self.sweeper.sweep()
            self.clock.advance(0.25)
        return self.taken_over - before

    def leases_taken_over(self, count: int) -> None:
        self.taken_over += count

    def _woken(self) -> None:
        self.woken += 1


@contextmanager
def members(
    url: str, count: int, *, service: str = "test", tables: Sequence[LeasedTable] = ()
) -> Iterator[list[Member]]:
    """So many connected processes of a service."""
    found = [Member(url, service=service, tables=tables) for _ in range(count)]
    try:
        for member in found:
            member.connect()
        yield found
    finally:
        for member in found:
            member.die()


def terminate(url: str) -> int:
    """End every connection of every member, as a restart of the database does; how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'member' and datname = current_database()"
        ).rowcount
