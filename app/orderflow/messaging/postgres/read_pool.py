# SPDX-License-Identifier: Apache-2.0
"""Runs the queries of HTTP APIs in threads with a connection pool, so that no event loop waits for the database."""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed

from orderflow.messaging.errors import BadData, DatabaseUnavailable, TransactionAborted
from orderflow.messaging.postgres.connection_watchdog import cut_off
from orderflow.messaging.postgres.database import (
    SqlTransaction,
    classified,
    configure,
    connection_options,
    target_session_attrs,
)
from orderflow.messaging.service import Transaction

Connection = psycopg.Connection[tuple[Any, ...]]
Result = TypeVar("Result")
_RECONNECT_SECONDS = 0.2
"""How long the pool tries to reconnect before a query asks again; in the default 5 min its pauses grow to minutes."""
_LONGEST_WAIT = 3
"""A query whose response takes this many times the timeout of a statement is cut off."""
_FAILING_SECONDS = 0.5
"""The longest wait for a connection while the database is known to fail: long enough for one attempt to connect."""


class ReadPool:
    """Runs each query in a read-only transaction of its own; ``size`` at most run at a time.

    Neither waiting for a connection nor a statement takes longer than ``timeout_seconds``; while the database fails, a
    query is refused sooner. Connections are opened in the background and tested before use, so no query fails because
    the database was restarted before it.
    """

    def __init__(self, url: str, *, application_name: str, timeout_seconds: float, size: int = 4) -> None:
        self.failed_at = self.committed_at = float("-inf")
        """Monotonic times of the last DatabaseUnavailable and of the last query that succeeded."""
        options = connection_options(application_name, statement_timeout_seconds=timeout_seconds, by_key=True)
        options["options"] += " -c default_transaction_read_only=on"
        if target_session_attrs(url) == "read-write":
            options["target_session_attrs"] = "primary"  # to libpq a session with the option above is read-only
        options["connect_timeout"] = 2  # libpq's minimum
        options["tcp_user_timeout"] = round(timeout_seconds * 1000)
        self._timeout = timeout_seconds
        self._clock_offset = timedelta()
        self._closed = False
        self._lock = threading.Lock()
        self._waited_for: dict[Connection, float] = {}
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="read")
        self._pool = ConnectionPool(
            url,
            kwargs=options,
            min_size=1,
            max_size=size,
            open=True,
            configure=self._configure,
            reconnect_timeout=_RECONNECT_SECONDS,
            num_workers=1,
            name="read",
        )

    def submit(self, query: Callable[[Transaction], Result]) -> Future[Result]:
        """Queue a query. Its future gets the result, BadData, TransactionAborted or DatabaseUnavailable."""
        return self._threads.submit(self._run, query)

    def close(self) -> None:
        """Drop the queries that wait and cut off those that run, so that no thread runs on until its timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for connection in self._waited_for:
                cut_off(connection)
        self._pool.close(timeout=1)

    def cut_off_overdue(self) -> int:
        """See ``connection_watchdog.Watched``."""
        with self._lock:
            before = time.monotonic() - _LONGEST_WAIT * self._timeout
            overdue = [connection for connection, since in self._waited_for.items() if since < before]
            for connection in overdue:
                cut_off(connection)
        return len(overdue)

    def _run(self, query: Callable[[Transaction], Result]) -> Result:
        try:
            with (
                self._connection() as connection,
                self._waiting_for(connection),
                connection.transaction(),
            ):
                result = query(SqlTransaction(connection, self._clock_offset))
        except psycopg.Error as error:
            raise self._classified(error) from error
        self.committed_at = time.monotonic()
        return result

    def _connection_timeout(self) -> float:
        return min(self._timeout, _FAILING_SECONDS) if self.failed_at > self.committed_at else self._timeout

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        connection = self._tested_connection()
        try:
            yield connection
        finally:
            self._pool.putconn(connection)

    def _tested_connection(self) -> Connection:
        """A connection that the server answers on; those that it does not answer on are replaced on the way.

        The pool's own ``check`` is not used: its pause after the second failure takes up the rest of the timeout, so
        two lost connections would cost a query.
        """
        deadline = time.monotonic() + self._connection_timeout()
        while True:
            connection = self._pool.getconn(max(0, deadline - time.monotonic()))
            try:
                with self._waiting_for(connection):
                    ConnectionPool.check_connection(connection)
            except psycopg.Error:
                connection.close()
                self._pool.putconn(connection)
            else:
                return connection

    @contextmanager
    def _waiting_for(self, connection: Connection) -> Generator[None]:
        """Let others cut off the connection during the block; raises PoolClosed when the pool is closed."""
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            self._waited_for[connection] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._waited_for.pop(connection, None)

    def _configure(self, connection: Connection) -> None:
        self._clock_offset = configure(connection)

    def _classified(self, error: psycopg.Error) -> BadData | TransactionAborted | DatabaseUnavailable:
        found = classified(error)
        if isinstance(found, DatabaseUnavailable):
            self.failed_at = time.monotonic()
        return found
