# SPDX-License-Identifier: Apache-2.0
"""The consumer core alone: a scripted broker that confirms immediately, real PostgreSQL, CPU time of one thread.

Each message is marked in the inbox, changes one row and causes one event. Run as
``python -m tests.bench.consumer_core DATABASE_URL MESSAGES [profile]``; prints one JSON line. The tables are
emptied first.
"""

import cProfile
import gc
import json
import pstats
import sys
import time
from collections.abc import Sequence

from orderflow.events import InventoryReserved, PaymentCaptured
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.service import Done, Incoming, Outcome, Transaction
from orderflow.messaging.uuid7 import uuid7
from tests.builders import NOW, FunctionHandler, a_codec, a_retry_policy, an_event, batch_limits
from tests.rigs.scripted_broker import ScriptedConsumer, ScriptedPublisher, deliver

_STATE = """
insert into bench_state (order_id, amount)
select * from unnest(%(ids)s::uuid[], %(amounts)s::bigint[])
on conflict (order_id) do update set amount = excluded.amount
"""


def charge(messages: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
    """One row of state and one event per message."""
    events = [message.event for message in messages if isinstance(message.event, InventoryReserved)]
    transaction.execute(
        _STATE, {"ids": [event.order_id for event in events], "amounts": [event.total_amount for event in events]}
    )
    return [
        Done(
            (
                PaymentCaptured(
                    timestamp=transaction.now,
                    order_id=event.order_id,
                    user_id=event.user_id,
                    total_amount=event.total_amount,
                    currency=event.currency,
                    charge_id="charge-1",
                ),
            )
        )
        for event in events
    ]


def main(database_url: str, messages: int, profile: str | None = None) -> None:
    database = Database(database_url)
    migrate(database, [messaging_schema()])
    with database.transaction() as transaction:
        transaction.execute("drop table if exists bench_state")
        transaction.execute("create table bench_state (order_id uuid primary key, amount bigint not null)")
        transaction.execute("truncate inbox, outbox")
    deliveries = [deliver(an_event(InventoryReserved, timestamp=NOW), message_id=uuid7()) for _ in range(messages)]
    publisher, consumer = ScriptedPublisher(), ScriptedConsumer("bench", deliveries)
    codec = a_codec("bench")
    processor = BatchProcessor(
        handler=FunctionHandler(charge),
        accepted=(InventoryReserved,),
        codec=codec,
        inbox=Inbox("bench"),
        units_of_work=UnitOfWorkFactory(database, Outbox(publisher, codec, lease_seconds=10)),
    )
    loop = ConsumerLoop(
        consumer=consumer,
        publisher=publisher,
        processor=processor,
        policy=a_retry_policy(),
        instrumentation=MessagingInstrumentation(),
        clock=SystemClock(),
        limits=batch_limits(250),
    )
    loop.stop()
    gc.freeze()  # these messages would be in the broker's memory
    profiler = cProfile.Profile()
    started, cpu = time.perf_counter(), time.thread_time()
    if profile:
        profiler.runcall(loop.run)
    else:
        loop.run()
    wall, cpu = time.perf_counter() - started, time.thread_time() - cpu
    with database.transaction() as check:
        ((inbox, state, outbox),) = check.execute(
            "select (select count(*) from inbox), (select count(*) from bench_state), (select count(*) from outbox)"
        )
    if [inbox, state, outbox, len(publisher.published)] != [messages, messages, 0, messages]:
        sys.exit(f"the job was not done: {inbox=} {state=} {outbox=} published={len(publisher.published)}")
    result = {"messages_per_second": round(messages / wall), "cpu_microseconds": round(cpu / messages * 1e6, 1)}
    print(json.dumps(result))
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
