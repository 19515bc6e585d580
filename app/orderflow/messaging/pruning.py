# SPDX-License-Identifier: Apache-2.0
"""Deletes rows that are no longer needed, a page at a time, so that the cost does not grow with the table.

Invariants:

- A statement visits at most one page of index entries, in the order of the index, from where the last page ended.
- The row of table ``pruning`` is locked by the process that deletes a page; the others skip it. It stores the end of
  the page in the same transaction, so any process continues where the last one stopped.
- Once a day a round begins at the very beginning: it finds rows that came late, behind the position.
- A page that fails is tried again with half of its rows, after a growing pause. It is counted, and the age of the last
  complete round grows.

Tested with two million rows in tests/integration/messaging/test_pruning.py.
"""

from collections.abc import Sequence

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.service import Prunable, PrunedPage

STATEMENT_SECONDS = 1.0
"""Timeout of its statements: a page takes a few hundredths of a second, unless the server is overloaded."""
LOOK_SECONDS = 300.0
"""How often a process looks whether a round is due."""
_ROUND_SECONDS = 900.0
_SWEEP_SECONDS = 86_400.0
_ROWS, _FEWEST_ROWS = 2000, 50
_REST_FACTOR = 1
"""It rests as long as a page took: at most half of a connection's time."""

_REGISTER = "insert into pruning (name) values (%(name)s) on conflict do nothing"
# Skips a row that another process has locked: that one is pruning. For the rest of the transaction rows are read in the
# order of an index: without recent statistics the planner would collect and sort a large part of the table.
_LOCK = """
select position, due_at <= statement_timestamp(), swept_at < statement_timestamp() - make_interval(secs => %(sweep)s),
       extract(epoch from statement_timestamp() - finished_at)::float8,
       set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)
from pruning where name = %(name)s for update skip locked
"""
_CONTINUE = "update pruning set position = %(position)s where name = %(name)s"
_FINISH = """
update pruning set position = %(position)s, finished_at = statement_timestamp(),
    due_at = statement_timestamp() + make_interval(secs => %(round)s),
    swept_at = case when %(swept)s then statement_timestamp() else swept_at end
where name = %(name)s
"""


class Pruner:
    """Prunes these rows, one page of each at a call. For one thread."""

    def __init__(
        self, database: Database, prunables: Sequence[Prunable], *, instrumentation: MessagingInstrumentation
    ) -> None:
        self._database = database
        self._limits = dict.fromkeys(prunables, _ROWS)
        self._instrumentation = instrumentation
        self._registered = False

    def prune(self) -> bool:
        """One page of everything that is due; true when there is more to do. Raises what ``transaction`` raises."""
        if not self._registered:
            with self._database.transaction() as transaction:
                for prunable in self._limits:
                    transaction.execute(_REGISTER, {"name": prunable.name})
            self._registered = True
        more, failure = False, None
        for prunable in self._limits:
            try:
                more |= self._prune(prunable)
            except InfrastructureError as error:
                failure = error  # the others go on
        if failure is not None:
            raise failure
        if not more:
            self._database.close()  # the next round is minutes away
        return more

    def loop(self, name: str, *, clock: Clock) -> Periodic:
        """The loop for a process; it closes the database at its end."""
        return Periodic(
            name,
            LOOK_SECONDS,
            self.prune,
            clock=clock,
            rest_factor=_REST_FACTOR,
            backoff=Backoff(first=1, maximum=60),
            close=self._database.close,
        )

    def _prune(self, prunable: Prunable) -> bool:
        limit = self._limits[prunable]
        try:
            page, age = self._page(prunable, limit)
        except InfrastructureError:
            self._limits[prunable] = max(_FEWEST_ROWS, limit // 2)
            self._instrumentation.prune_failed(prunable.name)
            raise
        if age is not None:
            self._instrumentation.pruned(prunable.name, 0 if page is None else page.deleted, age)
        if page is None or not page.more:
            self._limits[prunable] = _ROWS
            return False
        return True

    def _page(self, prunable: Prunable, limit: int) -> tuple[PrunedPage | None, float | None]:
        """The page, if one is due and no other process is pruning; seconds since the last round, if they are known."""
        with self._database.transaction() as transaction:
            locked = transaction.execute(_LOCK, {"name": prunable.name, "sweep": _SWEEP_SECONDS})
            if not locked:
                return None, None
            ((position, due, sweep, age, *_),) = locked
            if not due:
                return None, age
            page = prunable.prune_page(transaction, position, limit)
            if page.more:
                transaction.execute(_CONTINUE, {"name": prunable.name, "position": page.position})
                return page, age
            following = {"position": "" if sweep else page.position, "swept": sweep, "round": _ROUND_SECONDS}
            transaction.execute(_FINISH, {"name": prunable.name, **following})
        return page, 0.0
