# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ through pika: two connections on one I/O thread, so that a blocked publisher never delays an ack.

In the services' processes only this package imports pika. All of pika's objects belong to the I/O thread; other
threads reach it only through ``add_callback_threadsafe``, once per batch.
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
    """A ``Broker`` on RabbitMQ. ``window`` is the most unconfirmed publishes on the wire, at most 2000."""

    def __init__(
        self, url: str, *, window: int, instrumentation: MessagingInstrumentation, clock: Clock, connection_name: str
    ) -> None:
        read_all_tables()
        self.last_tick = clock.monotonic()
        self._clock = clock
        self._loop = IOLoop()
        self._links = {
            role: ReconnectingConnection(
                role, _parameters(url, f"{connection_name} {role}"), self._loop, instrumentation
            )
            for role in ("publish", "consume")
        }
        self._publisher = RabbitPublisher(
            self._links["publish"], self._loop, window=window, instrumentation=instrumentation, clock=clock
        )
        self._consumers: list[RabbitConsumer] = []
        self._links["consume"].opened = lambda _connection: self._each_consumer(RabbitConsumer.subscribe)
        self._links["consume"].lost = lambda: self._each_consumer(RabbitConsumer.lost)
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def publisher(self) -> RabbitPublisher:
        """The publisher of this process."""
        return self._publisher

    def consumer(self, queue: str, *, prefetch: int, ordered: bool = False) -> RabbitConsumer:
        """A consumer of a queue; it subscribes again after every reconnect. ``ordered`` as in ``Broker``."""
        consumer = RabbitConsumer(
            queue,
            prefetch=prefetch,
            ordered=ordered,
            link=self._links["consume"],
            loop=self._loop,
            clock=self._clock,
        )
        self._consumers.append(consumer)
        self._loop.add_callback_threadsafe(consumer.subscribe)
        return consumer

    @property
    def ready(self) -> bool:
        """True when publishing is possible and every consumer is subscribed."""
        return self._publisher.ready and all(consumer.subscribed for consumer in self._consumers)

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
            for link in self._links.values():
                link.connect()
            self._tick()
            self._loop.start()
        except Exception:
            log.exception("broker.io_failed")
            self.last_tick = float("-inf")  # the watchdog ends the process at its next look
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
        self._each_consumer(RabbitConsumer.leave)
        for link in self._links.values():
            link.close()
        self._stop_when_closed()

    def _stop_when_closed(self) -> None:
        if all(link.closed for link in self._links.values()):
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
