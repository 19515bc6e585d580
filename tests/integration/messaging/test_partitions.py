# SPDX-License-Identifier: Apache-2.0
"""Order per key: with partitions, the events of one order are handled in the order in which they were published.

This holds with two replicas, because each partition has one active consumer. Another consumer takes over when it stops.
"""

import random
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import pytest

from local.eventually import eventually
from orderflow.broker_topology import definitions, work_queues
from orderflow.events import InventoryReserved, PaymentCaptured
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.codec import Outgoing
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.service import DONE, Incoming, Outcome, Service, UnitOfWork
from orderflow.messaging.uuid7 import uuid7
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import apply
from orderflow.services import SERVICES
from orderflow.services.orders import ORDERS
from tests.builders import FunctionHandler, a_codec, a_retry_policy, batch_limits

pytestmark = pytest.mark.integration

PARTITIONS = 3
HANDOVERS = 12
PARTED = replace(ORDERS.queues[0], partitions=PARTITIONS)
PARTED_SERVICES: tuple[Service, ...] = tuple(
    replace(service, queues=(PARTED, *service.queues[1:])) if service is ORDERS else service for service in SERVICES
)
CODEC = a_codec("test")


@dataclass(slots=True)
class Seen:
    """What the replicas handled: order id to the sequence numbers, and partition to the replicas that worked on it."""

    numbers: dict[UUID, list[int]] = field(default_factory=lambda: defaultdict(list))
    workers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    count: int = 0


def handler(seen: Seen, replica: str, queue: str) -> FunctionHandler:
    def handle(messages: Sequence[Incoming], transaction: UnitOfWork) -> Sequence[Outcome]:
        transaction.after_commit(lambda: note(messages))
        return [DONE] * len(messages)

    def note(messages: Sequence[Incoming]) -> None:
        seen.workers[queue].add(replica)
        for message in messages:
            assert isinstance(message.event, PaymentCaptured)
            seen.numbers[message.event.order_id].append(message.event.total_amount)
            seen.count += 1

    return FunctionHandler(handle)


class Replica:
    """One process's consumers of a partitioned queue."""

    def __init__(self, url: str, database: str, seen: Seen, name: str) -> None:
        self._broker = RabbitMQBroker(
            url, window=1000, instrumentation=MessagingInstrumentation(), clock=SystemClock(), connection_name=name
        )
        self._loops = [self._loop(queue, database, handler(seen, name, queue)) for queue in work_queues(PARTED)]
        self._threads = [threading.Thread(target=loop.run, name=loop.name) for loop in self._loops]
        self._broker.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop as a process does on SIGTERM."""
        for loop in self._loops:
            loop.stop()
        for thread in self._threads:
            thread.join(20)
        self._broker.close(timeout_seconds=5)

    def _loop(self, queue: str, database: str, handle: Any) -> ConsumerLoop:
        return ConsumerLoop(
            consumer=self._broker.consumer(queue, prefetch=20, ordered=True),
            publisher=self._broker.publisher(),
            processor=BatchProcessor(
                handler=handle,
                accepted=(PaymentCaptured, InventoryReserved),
                codec=CODEC,
                inbox=Inbox(PARTED.name),
                units_of_work=UnitOfWorkFactory(
                    Database(database), Outbox(self._broker.publisher(), CODEC, lease_seconds=10)
                ),
            ),
            policy=a_retry_policy(),
            instrumentation=MessagingInstrumentation(),
            clock=SystemClock(),
            limits=batch_limits(7),
        )


def captured(order: UUID, number: int) -> Outgoing:
    """An event whose amount is its place in the order's sequence."""
    event = PaymentCaptured(
        timestamp=datetime.now(UTC), order_id=order, user_id="u", total_amount=number, currency="EUR", charge_id="c"
    )
    return Outgoing(event=event)


def test_events_of_one_order_stay_in_order_while_replicas_come_and_go(
    vhost: str, management_url: str, database: str
) -> None:
    document = definitions(PARTED_SERVICES, vhost=unquote(urlsplit(vhost).path[1:]))
    apply(Management(management_url), document)
    setup = Database(database)
    migrate(setup, [messaging_schema()])
    setup.close()
    seen, chance, orders = Seen(), random.Random(7), [uuid4() for _ in range(30)]
    sent: dict[UUID, int] = dict.fromkeys(orders, 0)

    def publish(broker: RabbitMQBroker, count: int) -> None:
        batch = []
        for order in chance.choices(orders, k=count):
            batch.append(CODEC.publication(uuid7(), captured(order, sent[order])))
            sent[order] += 1
        receipt = broker.publisher().publish(batch)
        assert receipt.wait(10) and not receipt.failures

    publisher = RabbitMQBroker(
        vhost, window=1000, instrumentation=MessagingInstrumentation(), clock=SystemClock(), connection_name="publisher"
    )
    publisher.start()
    eventually(lambda: publisher.ready, seconds=10, what="publisher ready")
    with ExitStack() as running:
        replicas: deque[Replica] = deque()
        for number in range(HANDOVERS):
            replicas.append(Replica(vhost, database, seen, str(number)))
            running.callback(replicas[-1].stop)
            publish(publisher, 100)
            begun = seen.count
            eventually(lambda begun=begun: seen.count > begun, seconds=20, what="work goes on")  # type: ignore[misc]
            if number:
                replicas.popleft().stop()
        eventually(lambda: seen.count == 100 * HANDOVERS, seconds=20, what="all messages handled")
    publisher.close(timeout_seconds=5)
    assert {order: list(range(count)) for order, count in sent.items()} == dict(seen.numbers)
    assert sorted(seen.workers) == sorted(work_queues(PARTED))
