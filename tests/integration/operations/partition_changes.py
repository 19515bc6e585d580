# SPDX-License-Identifier: Apache-2.0
"""Changes of the number of partitions that tests run, kill and look at."""

from dataclasses import replace
from threading import Event
from typing import Any

import msgspec
import pytest

from orderflow.broker_topology import definitions
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.service import Service
from orderflow.operations.management_api import Management
from orderflow.operations.topology.partition_change import PartitionChange
from orderflow.operations.topology.partition_parts import PartitionParts
from orderflow.operations.topology.prune import QueueState
from orderflow.rabbitmq_definitions import Definitions
from orderflow.services import SERVICES
from tests.integration.operations.conftest import Installation
from tests.rigs.partitioned_orders import QUEUE, PaymentsPublisher


class Killed(BaseException):
    """Ends the command where it is."""


class KillingManagement(Management):
    """Ends the command after its n-th change of the broker."""

    def __init__(self, url: str, *, after: int) -> None:
        super().__init__(url)
        self._left = after

    def _call(self, method: str, *arguments: Any, **named: Any) -> bytes:
        result = super()._call(method, *arguments, **named)
        self._left -= method != "GET"
        if not self._left:
            raise Killed
        return result


class KillingClock(SystemClock):
    """Ends the command when it waits for the old partitions."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def wait(self, event: Event, seconds: float) -> bool:
        if self._said[-1].startswith("wait"):
            raise Killed
        return super().wait(event, seconds)


def counted(count: int) -> tuple[Service, ...]:
    """The services, with that many partitions of ``order_updates``."""
    orders = next(service for service in SERVICES if service.name == "orders")
    queues = tuple(replace(queue, partitions=count) if queue == QUEUE else queue for queue in orders.queues)
    return tuple(replace(service, queues=queues) if service is orders else service for service in SERVICES)


def document(shop: Installation, count: int) -> Definitions:
    passwords = {user.name.rpartition("-")[2]: user.password or "" for user in shop.document.users}
    return definitions(counted(count), vhost=shop.vhost, passwords=passwords, user_prefix=prefix(shop))


def prefix(shop: Installation) -> str:
    return shop.user("orders").removesuffix("orders")


def change(
    shop: Installation,
    count: int,
    *,
    management: Management | None = None,
    clock: SystemClock | None = None,
    said: list[str] | None = None,
    drain_seconds: float = 120,
) -> PartitionChange:
    management = management or Management(shop.management_url)
    lines = [] if said is None else said
    parts = PartitionParts(SERVICES, vhost=shop.vhost, prefix=prefix(shop), name=QUEUE.name, count=count)
    return PartitionChange(
        management,
        parts,
        vhost=shop.vhost,
        clock=clock or SystemClock(),
        say=lines.append,
        drain_seconds=drain_seconds,
    )


def killed_after_every_change_of_the_broker(shop: Installation, count: int, publisher: PaymentsPublisher) -> int:
    """Run the command again and again until it waits for the old partitions; the number of times it was killed.

    Each time it is killed after one more change of the broker, and each time events are published afterwards.
    """
    kills, after, before = 0, 1, change(shop, count).steps()
    while True:
        said: list[str] = []
        management = KillingManagement(shop.management_url, after=after)
        with pytest.raises(Killed):
            change(shop, count, management=management, clock=KillingClock(said), said=said).run()
        kills += 1
        publisher.next()
        steps = change(shop, count).steps()
        if said[-1].startswith("wait"):
            return kills
        after, before = (after + 1, before) if steps == before else (1, steps)


def killed_while_it_waits(shop: Installation, count: int) -> None:
    """Run the command until it waits for the old partitions."""
    said: list[str] = []
    with pytest.raises(Killed):
        change(shop, count, clock=KillingClock(said), said=said).run()


def states(shop: Installation) -> dict[str, QueueState]:
    """The queues as the broker counted them last."""
    found = msgspec.json.decode(Management(shop.management_url).get("queues", shop.vhost), type=list[QueueState])
    return {state.name: state for state in found}
