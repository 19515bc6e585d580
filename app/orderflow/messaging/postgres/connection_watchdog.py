# SPDX-License-Identifier: Apache-2.0
"""Cuts off connections that wait too long for the server, so that no thread hangs.

The server ends a slow statement by itself (``statement_timeout``), but not a COMMIT, which may wait for a synchronous
standby for ever. It cannot end the wait for a response that never comes, either: a message is lost between a proxy and
the server, or the server is suspended. TCP notices nothing, because the peer acknowledges the packets. The thread that
waits then gets DatabaseUnavailable, and with a COMMIT it is unknown whether the transaction was committed.
"""

import logging
import os
import socket
import threading
from contextlib import suppress
from typing import Any, Protocol

import psycopg

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0


class Watched(Protocol):
    """Owns connections to the server; other threads wait on them."""

    def cut_off_overdue(self) -> int:
        """Cut off the connections that have waited too long; their number."""


class ConnectionWatchdog:
    """Checks what it watches once a second, in a thread of its own, from ``start`` until the process ends."""

    def __init__(self, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval = interval_seconds
        self._watched: list[Watched] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch connections", daemon=True)

    def watch(self, watched: Watched) -> None:
        """Check this from now on."""
        self._watched.append(watched)

    def start(self) -> None:
        """Begin to check."""
        self._thread.start()

    def stop(self) -> None:
        """Check no more."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            for watched in list(self._watched):
                if cut := watched.cut_off_overdue():
                    log.error("database.no_response", extra={"connections": cut})


def cut_off(connection: psycopg.Connection[Any]) -> None:
    """End a connection that another thread waits for; closing it would leave that thread waiting."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
