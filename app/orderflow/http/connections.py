# SPDX-License-Identifier: Apache-2.0
"""The open connections of an HTTP server: their number, and the time that each may wait, are bounded.

A stranger can hold a connection without a request, or with one that never ends. At the limit a new connection replaces
the one that has waited longest: first among those that never sent a known key, then among the others. So clients get in
while strangers hold every connection. A connection with a request in progress is never replaced.
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Protocol

from orderflow.instrumentation import Instrumentation

NEVER = inf
"""The deadline of a connection whose client waits for the server."""
FLUSH_SECONDS = 5.0
"""How long the last response of a connection may take to reach its client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a client may cost before it is authenticated."""

    connections: int = 2000
    head_bytes: int = 16 * 1024
    """The request line and the headers of one request."""
    request_seconds: float = 10.0
    """From connecting, or from the first byte of a later request, to the last byte of the request."""
    idle_seconds: int = 65
    """From a response to the next request. Longer than the 60 s of common load balancers, so that they close first."""


class Connection(Protocol):
    """What ``Connections`` needs of a connection."""

    authenticated: bool
    deadline: float

    def abort(self) -> None:
        """Close immediately."""


class Connections:
    """Every open connection of one server. Used by its event loop only; times are those of the loop."""

    def __init__(self, limits: ConnectionLimits, instrumentation: Instrumentation) -> None:
        self.limits = limits
        self.lame_duck = False
        """Whether each response closes its connection."""
        self._instrumentation = instrumentation
        self._open: set[Connection] = set()
        # Those that wait for a request, the longest-waiting first.
        self._strangers: OrderedDict[Connection, None] = OrderedDict()
        self._clients: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Connection, now: float) -> None:
        """A connection was accepted: it must send its first request in time. At the limit one connection is closed."""
        if len(self._open) >= self.limits.connections and not self._replace():
            self.close(connection, "refused")
            return
        self._open.add(connection)
        connection.deadline = now + self.limits.request_seconds
        self._strangers[connection] = None

    def busy(self, connection: Connection) -> None:
        """The head of a request is complete, so the connection is not replaced until its response."""
        self._strangers.pop(connection, None)
        self._clients.pop(connection, None)

    def waiting(self, connection: Connection, now: float) -> None:
        """Every response is sent: the connection waits for its next request."""
        connection.deadline = now + self.limits.idle_seconds + FLUSH_SECONDS
        if connection in self._open:
            (self._clients if connection.authenticated else self._strangers)[connection] = None

    def refused(self, connection: Connection, reason: str, now: float) -> None:
        """The connection is closed after a last response, which must be read in time."""
        self.busy(connection)
        connection.deadline = now + FLUSH_SECONDS
        self._instrumentation.http_connection_closed(reason)

    def closed(self, connection: Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        self.busy(connection)

    def close(self, connection: Connection, reason: str) -> None:
        """Close a connection; the reason is one of ``instrumentation.HTTP_CLOSINGS``."""
        self.closed(connection)
        self._instrumentation.http_connection_closed(reason)
        connection.abort()

    def close_overdue(self, now: float) -> None:
        """Close the connections whose time is over; called every second."""
        for connection in [connection for connection in self._open if connection.deadline < now]:
            self.close(connection, "overdue")
        self._instrumentation.http_connections(len(self._open))

    def _replace(self) -> bool:
        """Close the connection that has waited longest; False when every connection has a request in progress."""
        for waiting in (self._strangers, self._clients):
            if waiting:
                self.close(next(iter(waiting)), "replaced")
                return True
        return False
