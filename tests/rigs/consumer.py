# SPDX-License-Identifier: Apache-2.0
"""The consumer core on a real database and a scripted broker, with a handler whose effects can be counted."""

import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import psycopg

from orderflow.events import OrderCancelled, OrderRejected
from orderflow.messaging.broker import Delivery
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.consume.settlement import RetryPolicy
from orderflow.messaging.event import Event
from orderflow.messaging.instrumentation import BatchObserver, BatchResult, MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.service import Done, Incoming, Outcome, Reject, Retry, Transaction
from tests.builders import FunctionHandler, Handling, a_codec, a_retry_policy, an_event, batch_limits
from tests.rigs.scripted_broker import ScriptedConsumer, ScriptedPublisher, deliver

EFFECTS = "create table effects (order_id uuid not null, amount bigint not null check (amount <> 13));"
CODEC = a_codec("test")


def prepare(url: str) -> None:
    """Create the core's tables, and a table of effects without a unique key, so that repeated effects are visible."""
    database = Database(url)
    migrate(database, [messaging_schema()])
    with database.transaction() as transaction:
        transaction.run_script(EFFECTS)
    database.close()


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def one(url: str, statement: str) -> Any:
    ((value,),) = query(url, statement)
    return value


def effects(url: str) -> Counter[Any]:
    """The number of effects of each order."""
    return Counter(dict(query(url, "select order_id, count(*) from effects group by 1")))


def cancelled(reason: str = "good", **changes: object) -> Delivery:
    """A delivery whose reason selects the behaviour of the handler: good, later, never, bug or bad."""
    amount = 13 if reason == "bad" else 1999
    return deliver(an_event(OrderCancelled, reason=reason, total_amount=amount), **changes)  # type: ignore[arg-type]


def order(delivery: Delivery) -> Any:
    """The order id of a delivery: its correlation id."""
    return uuid.UUID(delivery.properties.correlation_id or "")


def handle(messages: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
    """One effect and one event per message; ``later`` is retried, ``never`` rejected, ``bug`` and ``bad`` fail."""
    outcomes: list[Outcome] = []
    applied: list[OrderCancelled] = []
    for message in messages:
        event = message.event
        assert isinstance(event, OrderCancelled)
        if event.reason == "bug":
            raise ZeroDivisionError
        if event.reason == "later":
            outcomes.append(Retry("later"))
        elif event.reason == "never":
            outcomes.append(Reject("never"))
        else:
            applied.append(event)
            outcomes.append(Done((an_event(OrderRejected, order_id=event.order_id),)))
    transaction.execute(
        "insert into effects select * from unnest(%(ids)s::uuid[], %(amounts)s::bigint[])",
        {"ids": [event.order_id for event in applied], "amounts": [event.total_amount for event in applied]},
    )
    return outcomes


class RecordedBatches(MessagingInstrumentation):
    """Records batches, pauses and relayed rows."""

    def __init__(self) -> None:
        self.batches: list[BatchResult] = []
        self.pauses: list[BaseException] = []
        self.relayed_rows = 0

    def batch_received(self, queue: str, deliveries: Sequence[Delivery]) -> BatchObserver:
        recorded = self

        class Span(BatchObserver):
            def handled(self, outcomes: BatchResult) -> None:
                recorded.batches.append(outcomes)

        return Span()

    def consumer_paused(self, queue: str, error: BaseException, seconds: float) -> None:
        self.pauses.append(error)

    def relayed(self, count: int) -> None:
        self.relayed_rows += count


class ConsumerRig:
    """One consumer of the queue ``work`` in its thread; leaving the context stops it without waiting for its work."""

    def __init__(
        self,
        url: str,
        *deliveries: Delivery,
        handler: Handling = handle,
        accepted: tuple[type[Event], ...] = (OrderCancelled,),
        policy: RetryPolicy | None = None,
        batch_size: int = 250,
        lease_seconds: float = 60,
        confirm_timeout_seconds: float = 0.3,
        give_back_seconds: float = 60,
        longest_transaction_seconds: float = 40,
    ) -> None:
        self.publisher = ScriptedPublisher()
        self.consumer = ScriptedConsumer("work", deliveries)
        self.recorded = RecordedBatches()
        self.database = Database(url, application_name="rig", response_margin_seconds=longest_transaction_seconds - 30)
        self.outbox = Outbox(self.publisher, CODEC, lease_seconds=lease_seconds)
        self.loop = ConsumerLoop(
            consumer=self.consumer,
            publisher=self.publisher,
            processor=BatchProcessor(
                handler=FunctionHandler(handler),
                accepted=accepted,
                codec=CODEC,
                inbox=Inbox("work"),
                units_of_work=UnitOfWorkFactory(self.database, self.outbox),
            ),
            policy=policy or a_retry_policy(),
            instrumentation=self.recorded,
            clock=SystemClock(),
            limits=batch_limits(batch_size),
            confirm_timeout_seconds=confirm_timeout_seconds,
            give_back_seconds=give_back_seconds,
        )
        self._thread = threading.Thread(target=self.loop.run, name="rig")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self.loop.give_up()
        self.join()

    def join(self, seconds: float = 10) -> None:
        """Wait until the thread ends; fails when it does not."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def total(self) -> BatchResult:
        """The sums over all settled batches."""
        total = BatchResult()
        for batch in self.recorded.batches:
            total.done += batch.done
            total.duplicates += batch.duplicates
            total.retried += batch.retried
            total.dead += batch.dead
        return total


def settled(url: str, *deliveries: Delivery, **options: Any) -> ConsumerRig:
    """Handle these deliveries with a consumer, which is then stopped in an orderly way."""
    rig = ConsumerRig(url, *deliveries, **options)
    with rig:
        rig.loop.stop()
        rig.join()
    return rig
