# SPDX-License-Identifier: Apache-2.0
"""Which connection is closed at the limit, and when one has waited for too long."""

from orderflow.http.connections import FLUSH_SECONDS, NEVER, ConnectionLimits, Connections
from orderflow.instrumentation import Instrumentation

LIMITS = ConnectionLimits(connections=3, request_seconds=10, idle_seconds=65)


class Closings(Instrumentation):
    """Keeps the reasons, and the last number of open connections."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.open_connections = 0

    def http_connection_closed(self, reason: str) -> None:
        self.reasons.append(reason)

    def http_connections(self, open_connections: int) -> None:
        self.open_connections = open_connections


class FakeConnection:
    """A connection that remembers whether it was closed."""

    def __init__(self, *, authenticated: bool = False) -> None:
        self.authenticated = authenticated
        self.deadline = NEVER
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class OpenConnections:
    """Connections, and what was reported of them."""

    def __init__(self) -> None:
        self.report = Closings()
        self.connections = Connections(LIMITS, self.report)

    def stranger(self, now: float = 0) -> FakeConnection:
        connection = FakeConnection()
        self.connections.opened(connection, now)
        return connection

    def busy(self) -> FakeConnection:
        connection = self.stranger()
        self.connections.busy(connection)
        connection.deadline = NEVER
        return connection

    def client(self, now: float = 0) -> FakeConnection:
        """A connection whose first request, with a known key, has its response."""
        connection = self.busy()
        connection.authenticated = True
        self.connections.waiting(connection, now)
        return connection


def closed(*connections: FakeConnection) -> list[bool]:
    return [connection.aborted for connection in connections]


def test_at_the_limit_the_longest_waiting_stranger_is_replaced() -> None:
    server = OpenConnections()
    first, second, third, newest = (server.stranger(now) for now in range(4))
    assert closed(first, second, third, newest) == [True, False, False, False]
    assert (len(server.connections), server.report.reasons) == (3, ["replaced"])


def test_a_stranger_is_replaced_before_a_client_that_has_waited_longer() -> None:
    server = OpenConnections()
    client, stranger, other = server.client(), server.stranger(5), server.stranger(6)
    flood = [server.stranger(7) for _ in range(100)]
    assert closed(client, stranger, other, flood[-1], flood[-2]) == [False, True, True, False, False]


def test_among_clients_the_one_with_the_oldest_response_is_replaced() -> None:
    server = OpenConnections()
    first, second, third = server.client(), server.client(), server.client()
    server.connections.busy(first)
    server.connections.waiting(first, 9)
    server.stranger(10)
    assert closed(first, second, third) == [False, True, False]


def test_a_connection_with_a_request_in_progress_is_never_replaced() -> None:
    server = OpenConnections()
    busy = [server.busy() for _ in range(3)]
    late = server.stranger()
    assert closed(*busy, late) == [False, False, False, True]
    assert (len(server.connections), server.report.reasons) == (3, ["refused"])
    server.connections.closed(busy[0])
    assert closed(server.stranger()) == [False]


def test_a_connection_without_a_request_is_closed_when_its_time_is_over() -> None:
    server = OpenConnections()
    stranger, client, busy = server.stranger(0), server.client(0), server.busy()
    server.connections.close_overdue(10)
    assert (closed(stranger, client, busy), server.report.open_connections) == ([False, False, False], 3)
    server.connections.close_overdue(10.1)
    assert (closed(stranger, client, busy), server.report.open_connections) == ([True, False, False], 2)
    server.connections.close_overdue(65 + FLUSH_SECONDS + 0.1)
    assert closed(client, busy) == [True, False]
    assert server.report.reasons == ["overdue", "overdue"]


def test_a_client_that_does_not_read_its_refusal_is_closed() -> None:
    server = OpenConnections()
    stranger = server.stranger(0)
    server.connections.refused(stranger, "malformed", 1)
    server.connections.close_overdue(1 + FLUSH_SECONDS + 0.1)
    assert (closed(stranger), server.report.reasons) == ([True], ["malformed", "overdue"])
