# SPDX-License-Identifier: Apache-2.0
"""A detour between exchange and queues: every message arrives three times, in another order.

Only operators may put messages into a work queue, so the copies are replays: published by the replay user, with the
origin of the event in their headers.
"""

import random
import threading
import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pika

from orderflow.events import EXCHANGE
from orderflow.messaging.publisher_check import REPLAY_EXCHANGE, Origin
from orderflow.messaging.service import Queue
from orderflow.services import SERVICES

QUEUES: tuple[Queue, ...] = tuple(queue for service in SERVICES for queue in service.queues)
COPIES = 3
WINDOW = 50


def _detour(queue: str) -> str:
    return f"detour.{queue}"


class Disorder:
    """While open, the work queues get their messages only through queues whose messages are tripled and shuffled."""

    def __init__(self, url: str, replay_url: str, *, seed: int) -> None:
        self._url = url
        self._replay_url = replay_url
        self._replay_user = urlsplit(replay_url).username
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disorder")
        self.delivered = 0
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._connection = pika.BlockingConnection(pika.URLParameters(self._url))
        self._channel = self._connection.channel()
        self._replay_connection = pika.BlockingConnection(pika.URLParameters(self._replay_url))
        self._replays = self._replay_connection.channel()
        self._replays.add_on_return_callback(self._on_return)
        for queue in QUEUES:
            self._channel.queue_declare(_detour(queue.name), durable=True, arguments={"x-queue-type": "quorum"})
            for event in queue.events:
                self._channel.queue_bind(_detour(queue.name), EXCHANGE, event.routing_key)
                self._channel.queue_unbind(queue.name, EXCHANGE, event.routing_key)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self.error is not None and error is None:
            raise self.error

    def _on_return(self, _channel: object, method: Any, _properties: object, _body: bytes) -> None:
        raise RuntimeError(f"{method.routing_key} took no copy")

    def _run(self) -> None:
        try:
            while self._turn() or not self._stopping.is_set():
                pass
            self._replay_connection.close()
            self._connection.close()
        except BaseException as error:
            self.error = error

    def _turn(self) -> int:
        moved = sum(self._shuffle(queue.name) for queue in QUEUES)
        self._replay_connection.process_data_events(0)
        if not moved:
            self._connection.process_data_events(0.05)
        return moved

    def _shuffle(self, queue: str) -> int:
        window: list[tuple[pika.BasicProperties, bytes]] = []
        tag = 0
        deadline = time.monotonic() + 0.1
        while len(window) < WINDOW and time.monotonic() < deadline:
            method, properties, body = self._channel.basic_get(_detour(queue))
            if method is None or properties is None or body is None:
                break
            tag = method.delivery_tag
            window.append((self._replayed(method, properties), body))
        copies: list[tuple[Any, bytes]] = window * COPIES
        self._random.shuffle(copies)
        for properties, body in copies:
            self._replays.basic_publish(REPLAY_EXCHANGE, queue, body, properties, mandatory=True)
        if tag:
            self._channel.basic_ack(tag, multiple=True)
        self.delivered += len(copies)
        return len(window)

    def _replayed(self, method: Any, properties: pika.BasicProperties) -> pika.BasicProperties:
        """The properties of a copy, as ``dead-letters replay`` makes them."""
        properties.headers = {**(properties.headers or {}), **Origin(properties.user_id, method.routing_key).headers()}
        properties.user_id = self._replay_user
        return properties
