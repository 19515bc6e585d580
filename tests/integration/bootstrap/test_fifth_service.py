# SPDX-License-Identifier: Apache-2.0
"""The example of a new service in docs/extend.md, started from a copy of the tree on real servers."""

import json
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

import pytest

from local.eventually import eventually
from local.servers.enclosed_server import responds
from local.servers.ports import Ports
from local.supervisor.supervisor import ProcessSpec, Supervisor
from orderflow.broker_topology import user_names
from orderflow.events import OrderConfirmed
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.codec import Outgoing
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.uuid7 import uuid7
from orderflow.services import SERVICES
from tests.builders import a_codec, an_event
from tests.catalogue.test_extending import SECTIONS
from tests.conftest import management
from tests.rigs.consumer import query
from tests.rigs.extended_tree import ROOT, ExtendedTree

pytestmark = pytest.mark.integration


def publish(amqp_url: str, event: OrderConfirmed) -> None:
    """Publish an event as the orders service does."""
    broker = RabbitMQBroker(
        amqp_url,
        window=1,
        instrumentation=MessagingInstrumentation(),
        clock=SystemClock(),
        connection_name="orders",
        user_id=urlsplit(amqp_url).username,
    )
    broker.start()
    eventually(lambda: broker.ready, seconds=10, what="a connection to the broker")
    receipt = broker.publisher().publish([a_codec("orders").publication(uuid7(), Outgoing(event=event))])
    assert receipt.wait(10) and not receipt.failures
    broker.close(timeout_seconds=5)


def waiting(management_url: str, vhost: str) -> set[str]:
    """The types of the messages in the queue of notifications, which does not run here."""
    body = b'{"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"}'
    found = json.loads(management(management_url, "POST", f"queues/{vhost}/notification_requests/get", body))
    return {message["properties"]["type"] for message in found}


@pytest.mark.parametrize("sections", [SECTIONS[:1], SECTIONS], ids=["the service alone", "every section"])
def test_a_service_of_one_folder_and_one_line_starts_and_handles_an_order(
    sections: tuple[str, ...], vhost: str, management_url: str, database: str, tmp_path: Path
) -> None:
    tree, ports, prefix = ExtendedTree(tmp_path / "tree"), Ports(), f"fifth-{uuid4().hex[:8]}-"
    for section in sections:
        tree.apply(section)
    users = (*user_names(SERVICES), "loyalty")
    passwords = tmp_path / "passwords.json"
    passwords.write_text(json.dumps(dict.fromkeys(users, "secret")))
    name, port = unquote(urlsplit(vhost).path[1:]), ports.take()
    apply = ("-m", "orderflow", "topology", "apply", "--vhost", name, "--user-prefix", prefix)

    def url(user: str) -> str:
        address = f"{prefix}{user}:secret@{urlsplit(vhost).netloc.rpartition('@')[2]}"
        return urlunsplit(urlsplit(vhost)._replace(netloc=address))

    environ = tree.environ(
        ORDERFLOW_AMQP_URL=url("loyalty"),
        ORDERFLOW_DATABASE_URL=database,
        ORDERFLOW_TELEMETRY_PORT=str(port),
        OTEL_SDK_DISABLED="true",
    )
    spec = ProcessSpec(
        name="loyalty",
        argv=[sys.executable, "-m", "orderflow", "serve", "loyalty"],
        env=environ,
        directory=tree.folder,
        log=tmp_path / "loyalty.log",
        ready=lambda: responds(f"http://127.0.0.1:{port}/readyz"),
    )
    try:
        tree.run(*apply, "--passwords", str(passwords), ORDERFLOW_MANAGEMENT_URL=management_url)
        with Supervisor() as supervisor:
            supervisor.start(spec)
            publish(url("orders"), an_event(OrderConfirmed, user_id="ann", total_amount=1999))
            eventually(
                lambda: query(database, "select user_id, points from points") == [("ann", 19)],
                seconds=20,
                what="points",
            )
            if sections == SECTIONS:
                eventually(lambda: "POINTS_EARNED" in waiting(management_url, name), seconds=20, what="an event")
            assert supervisor.exits("loyalty") == []
    finally:
        for user in users:
            management(management_url, "DELETE", f"users/{prefix}{user}")
        ports.release()


def test_the_extensions_pass_the_type_checker_and_the_linter(tmp_path: Path) -> None:
    tree, config = ExtendedTree(tmp_path), str(ROOT / "pyproject.toml")
    changed = {path for section in SECTIONS for path in tree.apply(section) if path.endswith(".py")}
    paths = [f"app/orderflow/{path}" for path in sorted(changed)]
    tree.run("-m", "mypy", "--config-file", config, *paths)
    tree.run("-m", "ruff", "check", "--config", config, *paths)
