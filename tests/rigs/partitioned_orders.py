# SPDX-License-Identifier: Apache-2.0
"""A process that consumes the partitions of ``order_updates`` and can be held back, and the publisher of its events.

Both use the users of an installation, so that permissions and the check of publishers count.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from local.eventually import eventually
from orderflow.broker_topology import work_queues
from orderflow.broker_users import broker_users
from orderflow.events import EXCHANGE, InventoryReserved, PaymentCaptured
from orderflow.messaging.broker import Delivery
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.codec import Outgoing
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.consume.settlement import retry_copy
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.publisher_check import Origin
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.service import DONE, Incoming, Outcome, Reject, UnitOfWork
from orderflow.messaging.uuid7 import uuid7
from orderflow.partition_counts import PartitionCounts
from orderflow.services import SERVICES
from orderflow.services.orders import ORDERS
from orderflow.settings import Settings
from tests.builders import FunctionHandler, a_codec, a_retry_policy, batch_limits

QUEUE = ORDERS.queues[0]
REJECTED = 1_000_000
"""The number of an event that the handler rejects the first time."""


class Seen:
    """What was handled: order id to the numbers of its events, and which work queues they came from."""

    def __init__(self) -> None:
        self.numbers: dict[UUID, list[int]] = defaultdict(list)
        self.queues: dict[str, int] = defaultdict(int)
        self.may_work = threading.Event()
        """Handlers wait for it."""
        self.rejecting = True

    @property
    def count(self) -> int:
        return sum(map(len, self.numbers.values()))

    def handler(self, queue: str) -> FunctionHandler:
        """Notes what it handles after the commit."""

        def handle(messages: Sequence[Incoming], transaction: UnitOfWork) -> Sequence[Outcome]:
            self.may_work.wait()
            good = [message for message in messages if not (self.rejecting and _number(message) == REJECTED)]
            transaction.after_commit(lambda: self._note(queue, good))
            return [DONE if message in good else Reject("bad_luck") for message in messages]

        return FunctionHandler(handle)

    def _note(self, queue: str, messages: Sequence[Incoming]) -> None:
        for message in messages:
            assert isinstance(message.event, PaymentCaptured)
            self.numbers[message.event.order_id].append(message.event.total_amount)
            self.queues[queue] += 1


class OrdersProcess:
    """The consumers of a process of orders; ``setting`` is its ORDERFLOW_PARTITIONS."""

    def __init__(self, url: str, database: str, seen: Seen, setting: str) -> None:
        self._users = broker_users(Settings(amqp_url=url), "orders", SERVICES)
        self._database, self._seen = database, seen
        self.broker = RabbitMQBroker(
            url,
            window=1000,
            instrumentation=MessagingInstrumentation(),
            clock=SystemClock(),
            connection_name="orders",
            user_id=self._users.own,
        )
        several = PartitionCounts(setting, SERVICES).consumed(QUEUE)
        names = [(name, queue.partitions > 1) for queue in several for name in work_queues(queue)]
        self._loops = [self._loop(name, ordered=ordered, optional=len(several) > 1) for name, ordered in names]
        self._threads = [threading.Thread(target=loop.run, name=loop.name) for loop in self._loops]

    def __enter__(self) -> Self:
        self.broker.start()
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.broker.ready and not self.broker.suspended, seconds=30, what="orders is ready")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._seen.may_work.set()
        for loop in self._loops:
            loop.stop()
        for thread in self._threads:
            thread.join(30)
        self.broker.close(timeout_seconds=5)

    def retry_later(self, order: UUID, number: int, *, delay_seconds: int) -> None:
        """Leave a copy of an event of payments in a retry queue, as its consumer does that could not handle it."""
        event = a_codec("payments").publication(uuid7(), _captured(order, number))
        origin = Origin(self._users.names["payments"], PaymentCaptured.routing_key)
        delivery = Delivery(1, EXCHANGE, origin.routing_key, False, event.properties, event.body, 0.0, origin.user_id)
        now = datetime.now(UTC)
        copy = retry_copy(
            delivery, origin=origin, queue=QUEUE.name, reason="later", delay_seconds=delay_seconds, now=now
        )
        receipt = self.broker.publisher().publish([copy])
        assert receipt.wait(20) and not receipt.failures

    def _loop(self, name: str, *, ordered: bool, optional: bool) -> ConsumerLoop:
        codec = a_codec("orders", publishers=self._users.check("orders"))
        outbox = Outbox(self.broker.publisher(), codec, lease_seconds=10)
        return ConsumerLoop(
            consumer=self.broker.consumer(name, prefetch=20, ordered=ordered, suspended=True, optional=optional),
            publisher=self.broker.publisher(),
            processor=BatchProcessor(
                handler=self._seen.handler(name),
                accepted=(PaymentCaptured, InventoryReserved),
                codec=codec,
                inbox=Inbox(QUEUE.name),
                units_of_work=UnitOfWorkFactory(Database(self._database), outbox),
            ),
            policy=a_retry_policy(),
            instrumentation=MessagingInstrumentation(),
            clock=SystemClock(),
            limits=batch_limits(7),
        )


class PaymentsPublisher:
    """Publishes the next event of each order, as user payments; ``sent`` are their numbers so far."""

    def __init__(self, url: str, orders: Sequence[UUID]) -> None:
        users = broker_users(Settings(amqp_url=url), "payments", SERVICES)
        self.sent: dict[UUID, list[int]] = {order: [] for order in orders}
        self._codec = a_codec("payments")
        self._broker = RabbitMQBroker(
            url,
            window=1000,
            instrumentation=MessagingInstrumentation(),
            clock=SystemClock(),
            connection_name="payments",
            user_id=users.own,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._broker.start()
        eventually(lambda: self._broker.ready, seconds=30, what="publisher ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.close(timeout_seconds=5)

    def next(self, rounds: int = 1) -> None:
        """The next events of every order; returns when the broker has confirmed them."""
        for _ in range(rounds):
            for order, numbers in self.sent.items():
                numbers.append(len(numbers))
                self.publish(order, numbers[-1])

    def publish(self, order: UUID, number: int) -> None:
        """One event with this number."""
        receipt = self._broker.publisher().publish([self._codec.publication(uuid7(), _captured(order, number))])
        assert receipt.wait(20) and not receipt.failures


def _captured(order: UUID, number: int) -> Outgoing:
    event = PaymentCaptured(
        timestamp=datetime.now(UTC), order_id=order, user_id="u", total_amount=number, currency="EUR", charge_id="c"
    )
    return Outgoing(event=event)


def _number(message: Incoming) -> int:
    assert isinstance(message.event, PaymentCaptured)
    return message.event.total_amount
