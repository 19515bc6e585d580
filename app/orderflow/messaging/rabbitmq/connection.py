# SPDX-License-Identifier: Apache-2.0
"""A pika connection that reconnects by itself. Everything here runs in the I/O thread."""

import logging
from collections.abc import Callable

import pika
from pika.adapters.select_connection import IOLoop

from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.rabbitmq.joined_frames import JoiningConnection
from orderflow.messaging.rabbitmq.reopening import Reopening

log = logging.getLogger(__name__)


class ReconnectingConnection:
    """One connection with a role; reconnects after every loss, with jittered back-off. For the I/O thread only."""

    def __init__(
        self,
        role: str,
        parameters: pika.URLParameters,
        loop: IOLoop,
        instrumentation: MessagingInstrumentation,
        clock: Clock,
    ) -> None:
        self.role = role
        self.current: JoiningConnection | None = None
        self.opened: Callable[[JoiningConnection], None] = lambda _connection: None
        self.lost: Callable[[], None] = lambda: None
        self._parameters = parameters
        self._loop = loop
        self._instrumentation = instrumentation
        self._reopening = Reopening(clock)
        self._closing = False

    def connect(self) -> None:
        """Begin to connect; ``opened`` is called when the connection is open."""
        if not self._closing:
            JoiningConnection(
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

    def _on_open(self, connection: JoiningConnection) -> None:
        self._reopening.opened()
        self.current = connection
        log.info("broker.connected", extra={"role": self.role})
        self._instrumentation.connected(self.role, connected=True)
        self.opened(connection)
        if self._closing:
            connection.close()

    def _on_closed(self, _connection: JoiningConnection, reason: BaseException) -> None:
        was_open, self.current = self.current is not None, None
        if was_open:
            self._instrumentation.connected(self.role, connected=False)
            self.lost()
        if self._closing:
            return
        pause = self._reopening.pause()
        log.warning("broker.disconnected", extra={"role": self.role, "error": repr(reason), "seconds": round(pause, 3)})
        self._loop.call_later(pause, self.connect)
