# SPDX-License-Identifier: Apache-2.0
"""Access to PostgreSQL: one connection per thread, plain SQL, errors classified by what the caller must do.

This module, ``connection_watchdog``, ``instance`` and ``read_pool`` are the only ones that import psycopg.
"""

import logging
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.abc import AdaptContext, DumperKey
from psycopg.adapt import Dumper, PyFormat
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.array import ListDumper

from orderflow.messaging.errors import BadData, DatabaseUnavailable, TransactionAborted
from orderflow.messaging.postgres.arrays import Packer, packer
from orderflow.messaging.postgres.connection_watchdog import cut_off
from orderflow.messaging.postgres.durability import LosesCommits, require_durable
from orderflow.messaging.postgres.instance import NO_OWNER, Instance

log = logging.getLogger(__name__)

RESPONSE_MARGIN_SECONDS = 10.0
"""A transaction that takes so much longer than one statement may is cut off; the watchdog of the loops waits longer."""
_IDLE_SECONDS = 60
"""The server ends a transaction whose client is silent for so long: it may be gone, and others wait for the locks."""
_CLOCK_TOLERANCE = timedelta(seconds=0.5)
# Only these say nothing about the server. After any other error the next attempt uses a new connection, which may reach
# another server: 25006 (it is read-only: a standby, or demoted), 08xxx (connection), 53xxx (disk full, out of memory,
# too many connections), 57Pxx (shutdown, recovery), 58xxx (I/O error), XXxxx (corruption), 42xxx (other tables).
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_BAD_DATA = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded)
_ABORTED = (errors.SerializationFailure, errors.DeadlockDetected)


class _BinaryListDumper(Dumper):
    """Packs a list as a binary array, if ``packer`` supports it; leaves every other list to the driver."""

    format = pq.Format.BINARY

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self._context = context
        self._pack: Packer | None = None

    def dump(self, obj: list[Any]) -> bytes:
        """The array; only called on a dumper that ``upgrade`` returned."""
        assert self._pack is not None
        return self._pack(obj)

    def get_key(self, obj: list[Any], format: PyFormat) -> DumperKey:  # noqa: A002 - the driver's name
        """What lists must have in common to share a dumper."""
        simple = packer(obj)
        return (
            (list, simple[0]) if simple else (_BinaryListDumper, ListDumper(list, self._context).get_key(obj, format))
        )

    def upgrade(self, obj: list[Any], format: PyFormat) -> Dumper:  # noqa: A002 - the driver's name
        """The dumper for lists like this one."""
        simple = packer(obj)
        if simple is None:
            return ListDumper(list, self._context).upgrade(obj, format)
        dumper = _BinaryListDumper(list, self._context)
        _, dumper.oid, dumper._pack = simple
        return dumper


class SqlTransaction:
    """An open transaction; counts its statements, begin and commit included."""

    def __init__(
        self, connection: psycopg.Connection[tuple[Any, ...]], clock_offset: timedelta, owner: int = NO_OWNER
    ) -> None:
        self._cursor = connection.cursor(binary=True)
        self.owner = owner
        """What to write to ``leased_by``: the instance whose lock the connection holds, or NO_OWNER."""
        self.statements = 2
        self.now = datetime.now(UTC) + clock_offset
        """The server's time at the beginning: processes whose clocks may differ compare leases and holds."""

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement with ``%(name)s`` parameters; the rows that it returns, if it returns any."""
        self.statements += 1
        self._cursor.execute(statement.encode(), parameters)
        return self._cursor.fetchall() if self._cursor.description else []

    def run_script(self, script: str) -> None:
        """Run several statements without parameters, separated by semicolons."""
        self._cursor.connection.execute(script.encode())


class Database:
    """One connection, for one thread, opened when it is first needed and again after it was lost.

    It accepts only a server that accepts writes, unless ``read_only``, or the URL has ``target_session_attrs``; with
    ``durable`` only one that keeps its commits, else it raises LosesCommits. With ``instance`` it can lease rows that
    others take over as soon as the process is gone. ``by_key`` is for statements that find their rows by indexes: see
    ``connection_options``.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "orderflow",
        statement_timeout_seconds: float = 30,
        response_margin_seconds: float = RESPONSE_MARGIN_SECONDS,
        read_only: bool = False,
        durable: bool = False,
        by_key: bool = False,
        instance: Instance | None = None,
    ) -> None:
        self.connections = 0
        """How many connections were opened so far."""
        self._url = url
        self._durable = durable
        self._instance = instance
        self._owner = NO_OWNER
        self._options = connection_options(
            application_name, statement_timeout_seconds=statement_timeout_seconds, by_key=by_key
        )
        if not read_only and target_session_attrs(url) is None:
            self._options["target_session_attrs"] = "read-write"
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._closing = threading.Lock()
        self._longest_wait = statement_timeout_seconds + response_margin_seconds
        self._waits_since: float | None = None
        self._clock_offset = timedelta()
        self.failed_at = self.committed_at = float("-inf")
        """Monotonic times of the last DatabaseUnavailable and of the last commit."""

    @contextmanager
    def transaction(self, *, limited: bool = True) -> Generator[SqlTransaction]:
        """A transaction, committed at the end of the block and rolled back when the block raises.

        Raises BadData, TransactionAborted or DatabaseUnavailable in place of the driver's errors. When the
        commit itself fails with DatabaseUnavailable, it is unknown whether the transaction was committed.
        ``limited``: it is cut off when it takes much longer than one statement may (``cut_off_overdue``).
        """
        connection = self._connected()
        self._waits_since = time.monotonic() if limited else None
        try:
            with connection.transaction():
                yield SqlTransaction(connection, self._clock_offset, self._owner)
        except psycopg.Error as error:
            raise self._classified(error) from error
        finally:
            self._waits_since = None
        self.committed_at = time.monotonic()

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement that is a transaction of its own: one round trip instead of three. Raises as above."""
        connection = self._connected()
        self._waits_since = time.monotonic()
        try:
            rows = SqlTransaction(connection, self._clock_offset).execute(statement, parameters)
        except psycopg.Error as error:
            raise self._classified(error) from error
        finally:
            self._waits_since = None
        self.committed_at = time.monotonic()
        return rows

    @property
    def failing(self) -> bool:
        """True from a DatabaseUnavailable until the next commit."""
        return self.failed_at > self.committed_at

    def close(self) -> None:
        """Close the connection; the next transaction opens a new one."""
        with self._closing:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def cut_off_overdue(self) -> int:
        """See ``connection_watchdog.Watched``."""
        with self._closing:
            since, connection = self._waits_since, self._connection
            if since is None or connection is None or time.monotonic() - since < self._longest_wait:
                return 0
            cut_off(connection)
            return 1

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is not None and not self._connection.broken and not self._connection.closed:
            return self._connection
        try:
            self._connection = psycopg.connect(self._url, **self._options)
            self._waits_since = time.monotonic()
            self._prepare(self._connection)
            self.connections += 1
        except (psycopg.Error, LosesCommits) as error:
            self.close()
            self.failed_at = time.monotonic()
            if isinstance(error, LosesCommits):
                raise
            raise DatabaseUnavailable(_first_line(error)) from error
        finally:
            self._waits_since = None
        return self._connection

    def _prepare(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._clock_offset = configure(connection)
        if self._durable:
            require_durable(lambda statement: connection.execute(statement.encode()))
        if self._instance is not None:
            self._owner = self._instance.attend(connection)

    def _classified(self, error: psycopg.Error) -> BadData | TransactionAborted | DatabaseUnavailable:
        found = classified(error)
        if isinstance(found, DatabaseUnavailable):
            self.failed_at = time.monotonic()
            self.close()
        return found


def connection_options(application_name: str, *, statement_timeout_seconds: float, by_key: bool) -> dict[str, Any]:
    """Arguments for ``psycopg.connect``: explicit transactions, and timeouts that detect a dead network.

    With ``by_key`` the planner does not choose to read whole tables, however small they are. A prepared statement keeps
    its plan until the table is analyzed, up to a minute later, and a sale fills an empty table faster than that
    (https://www.postgresql.org/docs/current/sql-prepare.html#SQL-PREPARE-NOTES).
    """
    planner = "".join(f" -c enable_{method}=off" for method in ("seqscan", "hashjoin", "mergejoin") if by_key)
    return {
        "autocommit": True,
        "connect_timeout": 5,
        "application_name": application_name,
        "options": f"-c statement_timeout={round(statement_timeout_seconds * 1000)} -c timezone=UTC"
        f" -c idle_in_transaction_session_timeout={_IDLE_SECONDS}s{planner}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }


def target_session_attrs(url: str) -> str | None:
    """Which servers the URL accepts (https://www.postgresql.org/docs/current/libpq-connect.html); None: not said."""
    found = conninfo_to_dict(url).get("target_session_attrs")
    return None if found is None else str(found)


def configure(connection: psycopg.Connection[tuple[Any, ...]]) -> timedelta:
    """Prepare a new connection for ``SqlTransaction``; returns how far the server's clock is ahead of ours."""
    connection.adapters.register_dumper(list, _BinaryListDumper)
    return _clock_offset(connection)


def classified(error: psycopg.Error) -> BadData | TransactionAborted | DatabaseUnavailable:
    """The error for a driver error: a refused value, an aborted transaction, or else an unavailable database."""
    text = f"{error.sqlstate or 'no SQLSTATE'}: {_first_line(error)}"
    if isinstance(error, _BAD_DATA):
        return BadData(text)
    if isinstance(error, _ABORTED):
        return TransactionAborted(text)
    return DatabaseUnavailable(text)


def _clock_offset(connection: psycopg.Connection[tuple[Any, ...]]) -> timedelta:
    """How far the server's clock is ahead of ours; 0 when the round trip may explain the difference."""
    before = datetime.now(UTC)
    row = connection.execute("select clock_timestamp()").fetchone()
    after = datetime.now(UTC)
    assert row is not None
    offset: timedelta = row[0] - (before + (after - before) / 2)
    if abs(offset) <= max(_CLOCK_TOLERANCE, after - before):
        return timedelta()
    log.warning("database.clock_differs", extra={"offset_seconds": round(offset.total_seconds(), 1)})
    return offset


def _first_line(error: psycopg.Error) -> str:
    """The error message; the lines below it (DETAIL, the statement) hold the row, which must not be logged."""
    text = error.diag.message_primary or str(error)
    return text.strip().partition("\n")[0]
