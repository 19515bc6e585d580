# SPDX-License-Identifier: Apache-2.0
"""A running process as the owner of leases: every connection of it holds the same advisory lock, shared.

The server drops a lock with its session. So an exclusive lock can be had only when all connections of the process are
gone: it died, or lost them all (``lease_sweeper``). The lock is shared because a connection that is lost may live on in
the server for a while beside the one that replaces it.
"""

import logging
import secrets
from typing import Any

import psycopg

log = logging.getLogger(__name__)

NO_OWNER = 0
"""In ``leased_by``: leased by a process without a lock, until the lease ends."""
# The server's process, as it named itself when the connection was made. A pooler names itself, and gives the session
# to another client after each transaction: a lock would stay with the session.
_IS_SESSION = "select pg_backend_pid() = %(pid)s"
_LOCK = "select pg_advisory_lock_shared(%(id)s)"
_REGISTER = """
insert into instances (id, service, process, started_at) values (%(id)s, %(service)s, %(process)s, now())
on conflict do nothing
"""


class Instance:
    """One process of a service. Its id is new with every start."""

    def __init__(self, service: str, process: str) -> None:
        self.id = secrets.randbits(63) or 1
        self.service = service
        self._process = process

    def attend(self, connection: psycopg.Connection[Any]) -> int:
        """Take the lock on a new connection, and register; what transactions on it write to ``leased_by``.

        NO_OWNER behind a connection pooler, where a session lock proves nothing.
        """
        row = connection.execute(_IS_SESSION, {"pid": connection.info.backend_pid}).fetchone()
        if row is None or not row[0]:
            log.warning("instance.pooled", extra={"instance": self._process})
            return NO_OWNER
        # Locked first, or a sweeper may take the row of a process that has just registered for that of a dead one.
        # It may also have deleted the row since the last connection was lost.
        connection.execute(_LOCK, {"id": self.id})
        connection.execute(_REGISTER, {"id": self.id, "service": self.service, "process": self._process})
        return self.id
