# SPDX-License-Identifier: Apache-2.0
"""The job of both sides: from a queue through inbox, state and outbox to a confirmed publish.

Input and output are quorum queues, messages are persistent, publishes confirmed and mandatory, acknowledgement is
manual and after the commit, and PostgreSQL commits to disk.
"""

import uuid
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import pika
import psycopg

from local.eventually import eventually
from orderflow.events import InventoryReserved, OrderLine
from orderflow.messaging.event import encode

INPUT = "bench_in"
OUTPUT = "bench_out"
EXCHANGE = "order_events"

TABLES = """
drop table if exists peer_inbox, peer_state, peer_outbox;
create table peer_inbox (message_id uuid primary key, received_at timestamptz not null default now());
create table peer_state (order_id uuid primary key, amount bigint not null);
create table peer_outbox (id uuid primary key, routing_key text not null, body bytea not null);
"""


def prepare(amqp_url: str, database_url: str, messages: int) -> None:
    """Fresh queues and tables, and the input queue filled with that many distinct messages."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(TABLES)
        database.execute("create table if not exists bench_state (order_id uuid primary key, amount bigint not null)")
        database.execute("truncate bench_state, inbox, outbox")
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    for queue in (INPUT, OUTPUT):
        channel.queue_delete(queue)
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind(INPUT, EXCHANGE, InventoryReserved.routing_key)
    channel.queue_bind(OUTPUT, EXCHANGE, "payment.captured")
    for _ in range(messages):
        channel.basic_publish(EXCHANGE, InventoryReserved.routing_key, *_message(user_id=user(amqp_url)))
    eventually(
        lambda: channel.queue_declare(INPUT, passive=True).method.message_count >= messages,
        seconds=120,
        what=f"{messages} messages in {INPUT}",
        pause=0.05,
    )
    connection.close()


def user(amqp_url: str) -> str:
    """The broker user of a URL, whom the messages name as their publisher."""
    return unquote(urlsplit(amqp_url).username or "guest")


def _message(*, user_id: str) -> tuple[bytes, pika.BasicProperties]:
    order_id = uuid.uuid4()
    event = InventoryReserved(
        timestamp=datetime.now(UTC),
        order_id=order_id,
        user_id="customer-1",
        total_amount=1999,
        currency="EUR",
        items=(OrderLine(sku="sku-1", quantity=1, unit_price=1999),),
        payment_token="ok",
    )
    properties = pika.BasicProperties(
        message_id=str(uuid.uuid4()),
        correlation_id=str(order_id),
        content_type="application/json",
        delivery_mode=2,
        type="INVENTORY_RESERVED",
        user_id=user_id,
    )
    return encode(event), properties


def depth(amqp_url: str, queue: str) -> int:
    """Messages ready in a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        count: int = connection.channel().queue_declare(queue, passive=True).method.message_count
        return count
    finally:
        connection.close()


def counted(database_url: str, *tables: str) -> dict[str, int]:
    """Rows in each table, to check that the job was done once."""
    with psycopg.connect(database_url) as connection:
        return {table: connection.execute(f"select count(*) from {table}".encode()).fetchone()[0] for table in tables}  # type: ignore[index]


def dsn(database_url: str) -> str:
    """The URL as asyncpg takes it."""
    return urlsplit(database_url)._replace(scheme="postgresql").geturl()
