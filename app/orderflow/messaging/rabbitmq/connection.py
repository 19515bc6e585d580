# SPDX-License-Identifier: Apache-2.0
"""A pika connection that reconnects by itself. Everything here runs in the I/O thread."""

import logging
import time
from collections.abc import Callable

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.instrumentation import MessagingInstrumentation

log = logging.getLogger(__name__)

_STABLE_SECONDS = 10
"""A shorter connection does not reset the back-off: each loss raises the delivery count of prefetched messages."""


class ReconnectingConnection:
    """One connection with a role; reconnects after every loss, with jittered back-off. For the I/O thread only."""

    def __init__(
        self, role: str, parameters: pika.URLParameters, loop: IOLoop, instrumentation: MessagingInstrumentation
    ) -> None:
        self.role = role
        self.current: SelectConnection | None = None
        self.opened: Callable[[SelectConnection], None] = lambda _connection: None
        self.lost: Callable[[], None] = lambda: None
        self._parameters = parameters
        self._loop = loop
        self._instrumentation = instrumentation
        self._backoff = Backoff(first=0.2, maximum=10)
        self._closing = False
        self._opened_at = 0.0

    def connect(self) -> None:
        """Begin to connect; ``opened`` is called when the connection is open."""
        if not self._closing:
            SelectConnection(
                self._parameters,
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_closed,
                on_close_callback=self._on_closed,
                custom_ioloop=self._loop,
            )

    def close(self) -> None:
        """Close for good."""
        self._closing = True
        if self.current is not None and self.current.is_open:
            self.current.close()

    @property
    def closed(self) -> bool:
        """True when it was closed for good and the close handshake is done."""
        return self._closing and self.current is None

    def _on_open(self, connection: SelectConnection) -> None:
        self._opened_at = time.monotonic()
        self.current = connection
        log.info("broker.connected", extra={"role": self.role})
        self._instrumentation.connected(self.role, connected=True)
        self.opened(connection)
        if self._closing:
            connection.close()

    def _on_closed(self, _connection: SelectConnection, reason: BaseException) -> None:
        was_open, self.current = self.current is not None, None
        if was_open and time.monotonic() - self._opened_at >= _STABLE_SECONDS:
            self._backoff.reset()
        if was_open:
            self._instrumentation.connected(self.role, connected=False)
            self.lost()
        if self._closing:
            return
        pause = self._backoff.next()
        log.warning("broker.disconnected", extra={"role": self.role, "error": repr(reason), "seconds": round(pause, 3)})
        self._loop.call_later(pause, self.connect)
