# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ through pika: two connections on one I/O thread.

Invariants:

- All of pika's objects belong to the I/O thread. Other threads reach it through ``add_callback_threadsafe``, once per
  batch: crossing per message costs more than half of the throughput (16.5k against 44.4k messages/s, measured before
  the adapter was chosen: docs/decisions/0003).
- Publishing has a connection of its own, so that a publisher that the broker blocks never delays an acknowledgement:
  https://www.rabbitmq.com/docs/connection-blocked
- Deliveries of an earlier channel are never acknowledged (epochs of ``DeliveryBuffer``).
- At most a window of publications is unconfirmed, 2000 at the most: above that a quorum queue with a deep backlog
  drops to a sixth of its throughput.

==================================== ==================================================================================
Failure                              Consequence
==================================== ==================================================================================
connection lost                      unconfirmed publications are LOST; it reconnects with jittered back-off
channel closed by the broker         the same for that channel alone; the error is logged
publication names another user       the broker closes the channel; the setting of the broker users is wrong
consumer cancelled by the broker     (queue deleted) the channel is closed and opened again with back-off
broker blocks publishing             nothing is written, ``room`` is 0, consumers take no batch; acks go on
unreadable header table              ``field_table_patch`` reads it; otherwise pika would end the connection
I/O thread fails                     everything is LOST, ``last_tick`` is -inf: the watchdog ends the process
==================================== ==================================================================================

When a consumer is cancelled, a quorum queue requeues the messages in flight to it and marks them as redelivered:
https://github.com/rabbitmq/rabbitmq-server/issues/3729. Measured by ``make bench``: docs/decisions/0003 and README.
"""

import logging
import threading
from collections.abc import Callable

import pika
from pika.adapters.select_connection import IOLoop

from orderflow.messaging.clock import Clock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.rabbitmq.connection import ReconnectingConnection
from orderflow.messaging.rabbitmq.consumer import RabbitConsumer
from orderflow.messaging.rabbitmq.field_table_patch import read_all_tables
from orderflow.messaging.rabbitmq.publisher import RabbitPublisher

log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 20
_TICK_SECONDS = 0.5


class RabbitMQBroker:
    """A ``Broker`` on RabbitMQ. ``window`` is the maximum of unconfirmed publishes on the wire, at most 2000.

    ``user_id`` is the user of the URL, which every message names as its publisher; None: they name no publisher.
    """

    def __init__(
        self,
        url: str,
        *,
        window: int,
        instrumentation: MessagingInstrumentation,
        clock: Clock,
        connection_name: str,
        user_id: str | None = None,
    ) -> None:
        read_all_tables()
        self.last_tick = clock.monotonic()
        self._clock = clock
        self._loop = IOLoop()
        self._connections = {
            role: ReconnectingConnection(
                role, _parameters(url, f"{connection_name} {role}"), self._loop, instrumentation, clock
            )
            for role in ("publish", "consume")
        }
        self._publisher = RabbitPublisher(
            self._connections["publish"],
            self._loop,
            window=window,
            instrumentation=instrumentation,
            clock=clock,
            user_id=user_id,
        )
        self._consumers: list[RabbitConsumer] = []
        self._connections["consume"].opened = lambda _opened: self._each_consumer(RabbitConsumer.subscribe)
        self._connections["consume"].lost = lambda: self._each_consumer(RabbitConsumer.lost)
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def publisher(self) -> RabbitPublisher:
        """The publisher of this process."""
        return self._publisher

    def consumer(
        self, queue: str, *, prefetch: int, ordered: bool = False, suspended: bool = False, optional: bool = False
    ) -> RabbitConsumer:
        """A consumer of a queue; it subscribes again after every reconnect. See ``Broker``."""
        consumer = RabbitConsumer(
            queue,
            prefetch=prefetch,
            ordered=ordered,
            suspended=suspended,
            optional=optional,
            connection=self._connections["consume"],
            loop=self._loop,
            clock=self._clock,
        )
        self._consumers.append(consumer)
        self._loop.add_callback_threadsafe(consumer.subscribe)
        return consumer

    @property
    def ready(self) -> bool:
        """True when publishing is possible and every consumer is subscribed, unless it is suspended. See ``Broker``."""
        working = {True: list[bool](), False: list[bool]()}
        for consumer in self._consumers:
            working[consumer.optional].append(consumer.subscribed or consumer.suspended)
        return self._publisher.ready and all(working[False]) and (any(working[True]) or not working[True])

    @property
    def suspended(self) -> bool:
        """True when a consumer is suspended."""
        return any(consumer.suspended for consumer in self._consumers)

    @property
    def blocked(self) -> bool:
        """True while the broker has blocked publishing because of a resource alarm."""
        return self._publisher.blocked

    def close(self, *, timeout_seconds: float) -> None:
        """Wait for open confirms up to the timeout, close the connections, end the I/O thread."""
        if not self._thread.is_alive():
            return
        deadline = self._clock.monotonic() + timeout_seconds
        self._publisher.idle.wait(timeout_seconds)
        self._loop.add_callback_threadsafe(self._close)
        self._thread.join(max(1.0, deadline - self._clock.monotonic()))
        if self._thread.is_alive():
            log.warning("broker.unclosed")
            self._loop.add_callback_threadsafe(self._loop.stop)
            self._thread.join(1)

    def _run(self) -> None:
        try:
            for connection in self._connections.values():
                connection.connect()
            self._tick()
            self._loop.start()
        except Exception:
            log.exception("broker.io_failed")
            self.last_tick = float("-inf")  # the watchdog ends the process at its next check
        finally:
            self._publisher.end()
            self._each_consumer(RabbitConsumer.end)
            self._loop.close()

    def _tick(self) -> None:
        self.last_tick = self._clock.monotonic()
        self._publisher.measure()
        self._loop.call_later(_TICK_SECONDS, self._tick)

    def _close(self) -> None:
        self._publisher.refuse()
        delay = max((consumer.closing_delay_seconds for consumer in self._consumers), default=0.0)
        if delay:
            self._loop.call_later(delay, self._close)
            return
        self._each_consumer(RabbitConsumer.close_ordered_channel)
        for connection in self._connections.values():
            connection.close()
        self._stop_when_closed()

    def _stop_when_closed(self) -> None:
        if all(connection.closed for connection in self._connections.values()):
            self._loop.stop()
        else:
            self._loop.call_later(0.02, self._stop_when_closed)

    def _each_consumer(self, action: Callable[[RabbitConsumer], None]) -> None:
        for consumer in self._consumers:
            action(consumer)


def _parameters(url: str, connection_name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.client_properties = {"connection_name": connection_name}
    if "heartbeat=" not in url:
        parameters.heartbeat = _HEARTBEAT_SECONDS
    return parameters
