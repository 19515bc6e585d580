# SPDX-License-Identifier: Apache-2.0
"""``order_updates`` of a running system gets partitions, by the commands of docs/operate.md, while orders arrive."""

import subprocess
from http import HTTPStatus
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from local.eventually import eventually
from local.http_json import http
from local.servers.stack import Stack
from local.system import System
from orderflow.operations.management_api import Management
from orderflow.operations.topology.prune import QueueState
from tests.rigs.consumer import one, query

pytestmark = pytest.mark.integration


def place_order(system: System) -> bool:
    """Whether a new order is accepted."""
    body = {"user_id": "u", "items": [{"sku": "a", "quantity": 1}], "payment_token": "ok"}
    headers = {"Authorization": f"Bearer {system.orders_key}", "Idempotency-Key": str(uuid4())}
    return http("POST", f"{system.orders_api}/v1/orders", headers=headers, body=body).status_code == HTTPStatus.ACCEPTED


def ended(command: subprocess.Popen[str]) -> bool:
    """Whether a command has ended, or ends soon."""
    try:
        command.wait(0.2)
    except subprocess.TimeoutExpired:
        return False
    return True


def queues(system: System) -> dict[str, QueueState]:
    found = Management(system.stack.rabbitmq.management_url).get("queues", system.vhost)
    return {state.name: state for state in msgspec.json.decode(found, type=list[QueueState])}


def test_orders_are_sold_while_their_queue_gets_partitions(stack: Stack, tmp_path: Path) -> None:
    environ = {"ORDERFLOW_PARTITIONS": "order_updates=1+2"}
    with System.started(stack, tmp_path, name="parted", environ=environ) as system:
        orders = system.databases["orders"]
        system.set_stock("a", 1_000_000)
        eventually(lambda: query(orders, "select from availability where sku = 'a'"), 20, what="the stock")
        words = (
            "topology",
            "partitions",
            "order_updates",
            "2",
            "--vhost",
            system.vhost,
            "--user-prefix",
            system.prefix,
        )
        accepted = int(place_order(system))
        with subprocess.Popen(
            system.command(*words), env=system.tool_environment(), cwd=system.tree, stdout=subprocess.PIPE, text=True
        ) as command:
            while not ended(command):
                accepted += place_order(system)
            assert command.stdout is not None
            printed = command.stdout.read()
        assert command.returncode == 1, printed
        assert "left: order_updates still has consumers" in printed
        assert "nobody reads" not in printed
        accepted += place_order(system)
        eventually(
            lambda: one(orders, "select count(*) from orders where status = 'confirmed'") == accepted,
            60,
            what=f"{accepted} orders are confirmed",
        )
        assert one(orders, "select count(*) from orders") == accepted
        assert queues(system)["order_updates.1of2"].consumers == 1
