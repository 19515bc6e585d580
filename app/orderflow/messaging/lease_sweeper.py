# SPDX-License-Identifier: Apache-2.0
"""Ends the leases of processes that are gone, so that others go on with their rows within a second.

Invariants:

- Leases end early only when every connection of their owner is gone: each holds the owner's advisory lock
  (``postgres/instance``). A slow process, also one that is suspended, keeps its leases until their time.
- The lock must be free for ``GRACE_SECONDS``, in which a living process that lost its connections connects again.
- After a loss of its own connection, or a start of the server, the sweeper first waits for ``SETTLING_SECONDS``: the
  others may have lost theirs too. The back-off of the loops ends sooner.
- One sweeper takes over an instance, in one transaction that holds the lock: all its leases end, and its row goes.
- Early or not, the end of a lease is safe: calls are repeated with the same key, messages with the same id.

==================================== ==================================================================================
Failure                              Consequence
==================================== ==================================================================================
process killed                       another of its service ends its leases after 0.5 to 0.8 s, else the next start
host or network of a process lost    the server notices late; the leases end by their time
database restarted                   everybody connects and locks again before anybody is taken over
database behind a pooler             no process has a lock (``postgres/instance``); the leases end by their time
==================================== ==================================================================================

While nobody died, a look is one statement of one round trip (tests/integration/messaging/test_lease_sweeper.py).
"""

import logging
from collections.abc import Callable, Sequence

from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.instance import Instance
from orderflow.messaging.service import LeasedTable, Transaction

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.25
GRACE_SECONDS = 0.5
SETTLING_SECONDS = 3.0
_FREE = """
select id, pg_postmaster_start_time() > statement_timestamp() - interval '10 seconds'
from instances where id <> %(own)s and service = %(service)s and pg_try_advisory_xact_lock(id)
"""
_LOCK = "select id, process from instances where id = any(%(ids)s::bigint[]) and pg_try_advisory_xact_lock(id)"
# Bounded from above, too: a charge that was cancelled is due again in an hour or a day, and no lease is that long.
_END = """
with leased as materialized (
    select {key} from {table} where leased_by = any(%(ids)s::bigint[])
    and {until} > statement_timestamp() and {until} <= statement_timestamp() + interval '1 hour'
    order by {key} for update),
ended as (
    update {table} set {until} = statement_timestamp(), leased_by = null
    where ({key}) in (select {key} from leased) returning 1)
select count(*) from ended
"""
_DELETE = "delete from instances where id = any(%(ids)s::bigint[])"


class LeaseSweeper:
    """Looks for instances that are gone; one thread calls ``sweep`` every ``INTERVAL_SECONDS``.

    ``database`` attends to the instance ``own``. Each of ``wake`` is called after a take-over.
    """

    def __init__(
        self,
        database: Database,
        tables: Sequence[LeasedTable],
        *,
        own: Instance,
        wake: Sequence[Callable[[], None]],
        instrumentation: MessagingInstrumentation,
        clock: Clock,
    ) -> None:
        self._database = database
        self._statements = {table.name: end_of_leases(table) for table in tables}
        self._own = own
        self._wake = wake
        self._instrumentation = instrumentation
        self._clock = clock
        self._free_since: dict[int, float] = {}
        self._connections = 0
        self._connected_at = 0.0

    def sweep(self) -> None:
        """Look once, and take over who has been gone for long enough. Raises what ``Database.execute`` raises."""
        free = dict(self._database.execute(_FREE, {"own": self._own.id, "service": self._own.service}))
        now = self._clock.monotonic()
        if self._connections != self._database.connections:
            self._connections, self._connected_at, self._free_since = self._database.connections, now, {}
        self._free_since = {instance: self._free_since.get(instance, now) for instance in free}
        gone = [instance for instance, since in self._free_since.items() if now - since >= GRACE_SECONDS]
        others_may_return = self._connections > 1 or any(free.values())
        if gone and not (others_may_return and now - self._connected_at < SETTLING_SECONDS):
            self._take_over(gone)

    def _take_over(self, gone: Sequence[int]) -> None:
        with self._database.transaction() as transaction:
            names = dict(transaction.execute(_LOCK, {"ids": gone}))
            ended = self._end(transaction, list(names)) if names else {}
        if names:
            log.info("leases.taken_over", extra={"instances": list(names.values()), "rows": ended})
            self._instrumentation.leases_taken_over(sum(ended.values()))
            for wake in self._wake:
                wake()

    def _end(self, transaction: Transaction, instances: Sequence[int]) -> dict[str, int]:
        """End all leases of these instances; the number of rows by table."""
        ended = {}
        for table, statement in self._statements.items():
            ((ended[table],),) = transaction.execute(statement, {"ids": instances})
        transaction.execute(_DELETE, {"ids": instances})
        return ended


def end_of_leases(table: LeasedTable) -> str:
    """The statement that ends the leases of ``ids`` in a table."""
    return _END.format(table=table.name, key=", ".join(table.key), until=table.until)
