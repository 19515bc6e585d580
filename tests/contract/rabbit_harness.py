# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ as the contract suite sees it, with what only a real broker has: users, its management API, its tools."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import pika
import pytest

from local.eventually import eventually
from local.servers.enclosure import ENVIRONMENT
from local.servers.rabbitmq import RabbitMQ as Server
from local.servers.stack import Stack
from orderflow.messaging.broker import Broker
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from tests.conftest import management
from tests.contract.broker_harness import TOPOLOGY, BrokerReports
from tests.memory_broker.broker import QueueSpec
from tests.rigs.tcp_proxy import Proxy


@dataclass(slots=True)
class RabbitHarness:
    """The broker with a vhost of its own."""

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

    @contextmanager
    def user(self, *, write: str) -> Iterator[str]:
        """The proxy's URL for a new user, who may read everything and write to the exchanges that match."""
        name, password = f"user-{uuid4().hex[:8]}", uuid4().hex
        self.api("PUT", f"users/{name}", {"password": password, "tags": ""})
        try:
            self.permit(name, write=write)
            parts = urlsplit(self.proxy.url)
            yield urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"))
        finally:
            self.api("DELETE", f"users/{name}")

    def permit(self, user: str, *, write: str) -> None:
        """Replace the permissions of a user."""
        self.api("PUT", f"permissions/%v/{user}", {"configure": "^$", "write": write, "read": ".*"})

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
