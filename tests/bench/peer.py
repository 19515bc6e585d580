# SPDX-License-Identifier: Apache-2.0
"""The peer: FastStream with asyncpg, as its documentation shows, with the same job and the same guarantees.

Run as ``python -m tests.bench.peer AMQP_URL DATABASE_URL MESSAGES``; prints one JSON line.
"""

import asyncio
import json
import sys
import time
import uuid

import asyncpg
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue
from pydantic import BaseModel

from tests.bench.job import EXCHANGE, INPUT


class Line(BaseModel):
    sku: str
    quantity: int
    unit_price: int


class Reserved(BaseModel):
    event_type: str
    order_id: uuid.UUID
    user_id: str
    total_amount: int
    currency: str
    items: list[Line]
    payment_token: str
    version: int = 1


async def main(amqp_url: str, database_url: str, messages: int) -> None:
    pool = await asyncpg.create_pool(database_url, min_size=10, max_size=10)
    broker = RabbitBroker(amqp_url, default_channel=Channel(prefetch_count=50), logger=None)
    exchange = RabbitExchange(EXCHANGE, type=ExchangeType.TOPIC, durable=True)
    queue = RabbitQueue(INPUT, queue_type=QueueType.QUORUM, durable=True)
    done = asyncio.Event()
    handled = 0

    @broker.subscriber(queue, ack_policy=AckPolicy.ACK)
    async def handle(body: Reserved, message: RabbitMessage) -> None:
        nonlocal handled
        event_id = uuid.uuid4()
        event = json.dumps(
            {"event_type": "PAYMENT_CAPTURED", "order_id": str(body.order_id), "charge_id": "c"}
        ).encode()
        async with pool.acquire() as connection:
            async with connection.transaction():
                new = await connection.fetchval(
                    "insert into peer_inbox (message_id) values ($1) on conflict do nothing returning message_id",
                    uuid.UUID(message.message_id),
                )
                if new is None:
                    return
                await connection.execute("insert into peer_state values ($1, $2)", body.order_id, body.total_amount)
                await connection.execute(
                    "insert into peer_outbox values ($1, $2, $3)", event_id, "payment.captured", event
                )
            await broker.publish(
                event, exchange=exchange, routing_key="payment.captured", message_id=str(event_id), persist=True
            )
            await connection.execute("delete from peer_outbox where id = $1", event_id)
        handled += 1
        if handled == messages:
            done.set()

    started, cpu = time.monotonic(), time.process_time()
    async with broker:
        await broker.start()
        await done.wait()
        seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time() - cpu}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
