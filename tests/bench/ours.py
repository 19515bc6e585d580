# SPDX-License-Identifier: Apache-2.0
"""Our side: the messaging core with its default settings.

Run as ``python -m tests.bench.ours AMQP_URL DATABASE_URL MESSAGES``; prints one JSON line.
"""

import json
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from orderflow.events import InventoryReserved, PaymentCaptured
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.instrumentation import BatchObserver, BatchResult, MessagingInstrumentation, PublishObserver
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.publisher_check import PublisherCheck
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.service import Done, Incoming, Outcome, Transaction
from tests.bench.job import INPUT, user
from tests.builders import FunctionHandler, a_codec, a_retry_policy, batch_limits


def capture(messages: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
    """The state change and the event of the job, for a batch."""
    events = [message.event for message in messages]
    assert all(isinstance(event, InventoryReserved) for event in events)
    transaction.execute(
        "insert into bench_state select * from unnest(%(ids)s::uuid[], %(amounts)s::bigint[])",
        {
            "ids": [getattr(event, "order_id") for event in events],  # noqa: B009 - narrowed by the assert above
            "amounts": [getattr(event, "total_amount") for event in events],  # noqa: B009
        },
    )
    now = datetime.now(UTC)
    return [Done((_captured(event, now),)) for event in events if isinstance(event, InventoryReserved)]


def _captured(event: InventoryReserved, now: datetime) -> PaymentCaptured:
    return PaymentCaptured(
        timestamp=now,
        order_id=event.order_id,
        user_id=event.user_id,
        total_amount=event.total_amount,
        currency=event.currency,
        charge_id="c",
    )


class Counting(MessagingInstrumentation):
    """Sets ``done`` when all messages are handled and all their events confirmed."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.handled = self.confirmed = self.statements = 0
        self.done = threading.Event()

    def batch_received(self, queue: str, deliveries: Sequence[object]) -> BatchObserver:
        counting = self

        class Span(BatchObserver):
            def handled(self, outcomes: BatchResult) -> None:
                counting.handled += outcomes.done
                counting.statements += outcomes.statements
                counting.check()

        return Span()

    def publishing(self, publications: Sequence[object]) -> PublishObserver:
        counting = self

        class Group(PublishObserver):
            def settled(self, *, confirmed: int, failures: object, seconds: float) -> None:
                counting.confirmed += confirmed
                counting.check()

        return Group()

    def check(self) -> None:
        if self.handled >= self.messages and self.confirmed >= self.messages:
            self.done.set()


def main(amqp_url: str, database_url: str, messages: int) -> None:
    clock, instrumentation = SystemClock(), Counting(messages)
    own = user(amqp_url)
    broker = RabbitMQBroker(
        amqp_url, window=1000, instrumentation=instrumentation, clock=clock, connection_name="bench", user_id=own
    )
    check = PublisherCheck(mode="enforce", own_user=own, owners={InventoryReserved: own})
    codec = a_codec("bench", publishers=check)
    loop = ConsumerLoop(
        consumer=broker.consumer(INPUT, prefetch=1000),
        publisher=broker.publisher(),
        processor=BatchProcessor(
            handler=FunctionHandler(capture),
            accepted=(InventoryReserved,),
            codec=codec,
            inbox=Inbox(INPUT),
            units_of_work=UnitOfWorkFactory(
                Database(database_url), Outbox(broker.publisher(), codec, lease_seconds=10)
            ),
        ),
        policy=a_retry_policy(),
        instrumentation=instrumentation,
        clock=clock,
        limits=batch_limits(),
    )
    thread = threading.Thread(target=loop.run)
    started, cpu = time.monotonic(), time.process_time()
    broker.start()
    thread.start()
    assert instrumentation.done.wait(300), "not done within five minutes"
    seconds = time.monotonic() - started
    loop.stop()
    thread.join()
    broker.close(timeout_seconds=5)
    cpu = time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "statements": instrumentation.statements}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
