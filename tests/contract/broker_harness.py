# SPDX-License-Identifier: Apache-2.0
"""The two brokers of the contract suite, with controls to cut connections, block publishing and read queues."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pika
import pytest

from local.eventually import eventually
from local.servers.enclosure import ENVIRONMENT
from local.servers.rabbitmq import RabbitMQ as Server
from local.servers.stack import Stack
from orderflow.messaging.broker import Broker, Failure, Properties, Publication
from orderflow.messaging.clock import Clock, ManualClock, SystemClock
from orderflow.messaging.instrumentation import MessagingInstrumentation, PublishObserver
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from tests.conftest import management
from tests.memory_broker.broker import MemoryBroker, QueueSpec
from tests.rigs.tcp_proxy import Proxy

TOPOLOGY = {
    "work": QueueSpec(bindings=(("contract", "order.*"),)),
    "audit": QueueSpec(bindings=(("contract", "#.audited"),)),
    "small": QueueSpec(bindings=(("contract", "small"),), max_length=1),
    "single": QueueSpec(single_active=True),
    "later": QueueSpec(expires_after_seconds=0.5, expires_to="work"),
}


def message(
    body: str = "", *, exchange: str = "contract", routing_key: str = "order.created", **properties: object
) -> Publication:
    """A publication with all properties, to queue ``work`` unless said otherwise."""
    values: dict[str, object] = {
        "message_id": str(uuid4()),
        "correlation_id": "order-1",
        "type": "ORDER_CREATED",
        "timestamp": 1_767_225_600,
        "app_id": "test",
        "content_type": "application/json",
        "headers": {"traceparent": "00-1-2-01", "x-retry-count": 3},
        **properties,
    }
    return Publication(uuid4(), exchange, routing_key, Properties(**values), body.encode())  # type: ignore[arg-type]


def messages(count: int, *, first: int = 0, size_bytes: int = 0) -> list[Publication]:
    """Publications to ``work`` with numbered bodies."""
    return [message(f"{number}".rjust(size_bytes)) for number in range(first, first + count)]


class GroupObserver(PublishObserver):
    """Records the result of publications that were written together."""

    def __init__(self, reports: "BrokerReports", number: int) -> None:
        self._reports = reports
        self._number = number

    def settled(self, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        assert seconds >= 0
        self._reports.settled_groups.append(self._number)
        self._reports.confirmed += confirmed
        for failure, count in failures.items():
            self._reports.failures[failure.value] = self._reports.failures.get(failure.value, 0) + count


class BrokerReports(MessagingInstrumentation):
    """Records what the broker reports."""

    def __init__(self) -> None:
        self.written: list[int] = []
        """Sizes of the groups that were written."""
        self.on_wire: list[int] = []
        """Unconfirmed publications after each group."""
        self.confirmed = 0
        self.failures: dict[str, int] = {}
        self.settled_groups: list[int] = []
        self.connections: list[tuple[str, bool]] = []
        self.blocks: list[bool] = []
        self.broker: Broker | None = None

    def publishing(self, publications: Sequence[Publication]) -> PublishObserver:
        assert self.broker is not None
        window = self.broker.publisher()._window  # type: ignore[attr-defined]
        self.written.append(len(publications))
        self.on_wire.append(window.unconfirmed + len(publications))
        return GroupObserver(self, len(self.written))

    def connected(self, role: str, *, connected: bool) -> None:
        self.connections.append((role, connected))

    def blocked(self, *, blocked: bool) -> None:
        self.blocks.append(blocked)


class BrokerHarness(Protocol):
    """A broker with the queues of TOPOLOGY, and controls for what may happen to it."""

    reports: BrokerReports

    @property
    def clock(self) -> Clock:
        """The broker's clock."""

    @property
    def user_id(self) -> str:
        """The user of its connections."""

    def broker(self, *, window: int = 1000) -> Broker:
        """A connected broker; closed at the end."""

    def cut(self) -> None:
        """Cut the connections and allow no new ones until ``mend``."""

    def mend(self) -> None:
        """Allow connections again."""

    def hold(self) -> None:
        """Hold back what the broker sends."""

    def release(self) -> None:
        """Send what was held back."""

    def block(self) -> None:
        """Raise a resource alarm: publishers are blocked, at the latest when they publish."""

    def unblock(self) -> None:
        """End the alarm."""

    def advance(self, seconds: float) -> None:
        """Advance the clock, if the broker has a manual one."""

    def depth(self, queue: str) -> int:
        """Messages in a queue; with the memory broker this includes unacknowledged ones."""


class MemoryHarness:
    user_id = "someone"

    def __init__(self) -> None:
        self.reports = BrokerReports()
        self._clock = ManualClock()
        self._broker: MemoryBroker | None = None

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def _one(self) -> MemoryBroker:
        assert self._broker is not None
        return self._broker

    def broker(self, *, window: int = 1000) -> Broker:
        self._broker = MemoryBroker(
            TOPOLOGY, window=window, instrumentation=self.reports, clock=self._clock, user_id=self.user_id
        )
        self.reports.broker = self._broker
        self._broker.start()
        return self._broker

    def cut(self) -> None:
        self._one.disconnect()

    def mend(self) -> None:
        self._one.connect()

    def hold(self) -> None:
        self._one.hold()

    def release(self) -> None:
        self._one.hold(holding=False)

    def block(self) -> None:
        self._one.block()

    def unblock(self) -> None:
        self._one.block(blocked=False)

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def depth(self, queue: str) -> int:
        return self._one.depth(queue)


@dataclass(slots=True)
class RabbitHarness:
    stack: Stack
    vhost: str
    proxy: Proxy
    reports: BrokerReports
    brokers: list[RabbitMQBroker]
    clock: Clock = field(default_factory=SystemClock)

    @property
    def user_id(self) -> str:
        return urlsplit(self.proxy.url).username or ""

    def broker(self, *, window: int = 1000) -> Broker:
        broker = self.unconnected(window=window)
        broker.start()
        eventually(lambda: broker.ready)
        return broker

    def unconnected(self, *, window: int = 1000, url: str = "", user_id: str = "") -> RabbitMQBroker:
        """A broker that is not started."""
        name = f"contract {uuid4().hex[:8]}"
        broker = RabbitMQBroker(
            url or self.proxy.url,
            window=window,
            instrumentation=self.reports,
            clock=self.clock,
            connection_name=name,
            user_id=user_id or urlsplit(url or self.proxy.url).username,
        )
        self.reports.broker = broker
        self.brokers.append(broker)
        return broker

    def cut(self) -> None:
        self.proxy.open = False
        self.proxy.cut()

    def mend(self) -> None:
        self.proxy.open = True

    def hold(self) -> None:
        self.proxy.responding.clear()

    def release(self) -> None:
        self.proxy.responding.set()

    def block(self) -> None:
        self.control("set_vm_memory_high_watermark", "absolute", "1")

    def unblock(self) -> None:
        self.control("set_vm_memory_high_watermark", "absolute", str(1024**3))

    def advance(self, seconds: float) -> None:
        pass

    def depth(self, queue: str) -> int:
        with pika.BlockingConnection(pika.URLParameters(self.vhost)) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            return int(declared.method.message_count)

    def api(self, method: str, path: str, body: object = None) -> bytes:
        """A call of the management API; ``%v`` in the path stands for the vhost."""
        name = quote(urlsplit(self.vhost).path[1:], safe="")
        data = b"" if body is None else json.dumps(body).encode()
        return management(self.stack.rabbitmq.management_url, method, path.replace("%v", name), data)

    def declare(self, queue: str, spec: QueueSpec) -> None:
        """Declare a queue with its bindings."""
        arguments: dict[str, object] = {"x-queue-type": "quorum"}
        if spec.single_active:
            arguments["x-single-active-consumer"] = True
        if spec.max_length is not None:
            arguments |= {"x-max-length": spec.max_length, "x-overflow": "reject-publish"}
        if spec.expires_after_seconds is not None:
            arguments |= {
                "x-message-ttl": round(spec.expires_after_seconds * 1000),
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": spec.expires_to,
            }
        self.api("PUT", f"queues/%v/{queue}", {"durable": True, "arguments": arguments})
        for exchange, pattern in spec.bindings:
            self.api("PUT", f"exchanges/%v/{exchange}", {"type": "topic", "durable": True})
            self.api("POST", f"bindings/%v/e/{exchange}/q/{queue}", {"routing_key": pattern})

    def control(self, *command: str) -> None:
        """Run ``rabbitmqctl`` in the server's namespaces; skips the test when the server was given by URL."""
        server = self.stack.rabbitmq
        if not isinstance(server, Server):
            pytest.skip("the broker was given by URL; its alarms cannot be set")
        user = server.directory.stat()
        enter = ["nsenter", "--mount", "--pid", "--root", "--wd", "--target", str(server.pid)]
        account = [f"--setuid={user.st_uid}", f"--setgid={user.st_gid}"]
        environment = {**os.environ, **ENVIRONMENT, **server._environment()}
        done = subprocess.run(
            [*enter, *account, "--", "/usr/lib/rabbitmq/bin/rabbitmqctl", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def rabbit_harness(stack: Stack, vhost: str) -> Iterator[RabbitHarness]:
    """The real broker with a vhost of its own, behind a proxy that can be cut."""
    with Proxy(vhost) as proxy:
        harness = RabbitHarness(stack, vhost, proxy, BrokerReports(), [])
        for queue, spec in TOPOLOGY.items():
            harness.declare(queue, spec)
        try:
            yield harness
        finally:
            harness.release()
            for broker in harness.brokers:
                broker.close(timeout_seconds=0.2)
