# SPDX-License-Identifier: Apache-2.0
"""The job of both sides: from a queue through inbox, state and outbox to a confirmed publish.

Input and output are quorum queues, messages are persistent, publishes confirmed and mandatory, acknowledgement is
manual and after the commit, and PostgreSQL commits to disk.
"""

import json
import uuid
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Tables:
    """Where a consumer marks messages as handled, applies them, and keeps events until they are confirmed."""

    inbox: str
    state: str
    outbox: str


OUR_TABLES = Tables("inbox", "bench_state", "outbox")
PEER_TABLES = Tables("peer_inbox", "peer_state", "peer_outbox")

_CREATE_PEER_TABLES = """
drop table if exists peer_inbox, peer_state, peer_outbox;
create table peer_inbox (message_id uuid primary key, received_at timestamptz not null default now());
create table peer_state (order_id uuid primary key, amount bigint not null);
create table peer_outbox (id uuid primary key, routing_key text not null, body bytea not null);
"""


def prepare(amqp_url: str, database_url: str, messages: int) -> None:
    """Fresh queues and tables, and the input queue filled with that many distinct messages."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(_CREATE_PEER_TABLES)
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


def broken(amqp_url: str, database_url: str, tables: Tables, messages: int) -> str:
    """What is wrong when a consumer has ended, or nothing: every effect must be there exactly once.

    Each message is marked, applied and acknowledged; each event is in the output queue, and no longer in the outbox.
    """
    orders = _orders_of_events(amqp_url)
    expected = {
        f"rows in {tables.inbox}": messages,
        f"rows in {tables.state}": messages,
        f"rows in {tables.outbox}": 0,
        f"messages in {INPUT}": 0,
        "events": messages,
        "orders with an event": messages,
    }
    found = {
        **{f"rows in {table}": rows for table, rows in _counted(database_url, tables).items()},
        f"messages in {INPUT}": _depth(amqp_url, INPUT),
        "events": len(orders),
        "orders with an event": len(set(orders)),
    }
    return ", ".join(f"{found[name]} {name}, not {count}" for name, count in expected.items() if found[name] != count)


def _orders_of_events(amqp_url: str) -> list[str]:
    """The order of every event in the output queue."""
    depth, found = _depth(amqp_url, OUTPUT), list[str]()
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1000)
    deliveries = channel.consume(OUTPUT, inactivity_timeout=10)
    while len(found) < depth:
        method, _, body = next(deliveries)
        if method is None or body is None:
            break
        found.append(json.loads(body)["order_id"])
        if len(found) % 500 == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
    connection.close()
    return found


def _depth(amqp_url: str, queue: str) -> int:
    """Messages ready in a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        count: int = connection.channel().queue_declare(queue, passive=True).method.message_count
        return count
    finally:
        connection.close()


def _counted(database_url: str, tables: Tables) -> dict[str, int]:
    names = (tables.inbox, tables.state, tables.outbox)
    with psycopg.connect(database_url) as connection:
        return {name: connection.execute(f"select count(*) from {name}".encode()).fetchone()[0] for name in names}  # type: ignore[index]
