# SPDX-License-Identifier: Apache-2.0
"""Reads from the database in a few threads, so that the event loop never waits."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Transaction

Result = TypeVar("Result")
ANSWER_SECONDS = 2.0
"""Longest wait for what an answer needs; then the client is told to try again."""


class Reader:
    """A database connection a thread; each read is a transaction of its own."""

    def __init__(self, connect: Callable[[], Database], *, threads: int = 4) -> None:
        self._connect = connect
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    async def read(self, query: Callable[[Transaction], Result]) -> Result:
        """The query's result; raises DatabaseUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, query)

    def close(self) -> None:
        """Finish what was begun."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, query: Callable[[Transaction], Result]) -> Result:
        if not hasattr(self._local, "database"):
            self._local.database = self._connect()
        with self._local.database.transaction() as transaction:
            return query(SqlUnitOfWork(transaction))
