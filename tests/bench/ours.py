# SPDX-License-Identifier: Apache-2.0
"""Our side: the messaging core doing the job with its defaults.

Run as ``python -m tests.bench.ours AMQP_URL DATABASE_URL MESSAGES``; prints one JSON line.
"""

import json
import resource
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from orderflow.messages import InventoryReserved, PaymentCaptured
from orderflow.messaging.attempt import Attempt
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.codec import Codec
from orderflow.messaging.consumer import BatchLimits, ConsumerLoop
from orderflow.messaging.database import Database
from orderflow.messaging.hooks import BatchSpan, Hooks, Outcomes
from orderflow.messaging.inbox import Inbox
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.rabbitmq import RabbitMQ
from orderflow.messaging.retry import RetryPolicy
from orderflow.messaging.service import Done, Incoming, Outcome, Transaction
from orderflow.messaging.unit_of_work import UnitOfWork
from tests.bench.job import INPUT


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


class Counting(Hooks):
    """Sets ``done`` when all messages are handled and all their events confirmed."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.handled = self.confirmed = self.statements = 0
        self.done = threading.Event()

    def batch_received(self, queue: str, deliveries: Sequence[object]) -> BatchSpan:
        counting = self

        class Span(BatchSpan):
            def handled(self, outcomes: Outcomes) -> None:
                counting.handled += outcomes.done
                counting.statements += outcomes.statements
                counting.check()

        return Span()

    def settled(self, token: object, *, confirmed: int, failures: object, seconds: float) -> None:
        self.confirmed += confirmed
        self.check()

    def check(self) -> None:
        if self.handled >= self.messages and self.confirmed >= self.messages:
            self.done.set()


def main(amqp_url: str, database_url: str, messages: int) -> None:
    clock, hooks = SystemClock(), Counting(messages)
    broker = RabbitMQ(amqp_url, window=1000, hooks=hooks, clock=clock, connection_name="bench")
    codec = Codec(app_id="bench")
    loop = ConsumerLoop(
        consumer=broker.consumer(INPUT, prefetch=1000),
        publisher=broker.publisher(),
        attempt=Attempt(
            handler=capture,
            accepted=(InventoryReserved,),
            codec=codec,
            inbox=Inbox(INPUT),
            unit_of_work=UnitOfWork(Database(database_url), Outbox(broker.publisher(), codec, lease_seconds=10)),
        ),
        policy=RetryPolicy(),
        hooks=hooks,
        clock=clock,
        limits=BatchLimits(),
    )
    thread = threading.Thread(target=loop.run)
    started = time.monotonic()
    broker.start()
    thread.start()
    assert hooks.done.wait(300), "not done within five minutes"
    seconds = time.monotonic() - started
    loop.stop()
    thread.join()
    broker.close(timeout_seconds=5)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "statements": hooks.statements}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
