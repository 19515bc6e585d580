# SPDX-License-Identifier: Apache-2.0
"""The dead letter queue on a real broker, as the user that may only replay."""

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pika
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orderflow.events import InventoryReserved
from orderflow.messaging.broker import Delivery
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.event import encode
from orderflow.messaging.instrumentation import BatchObserver
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.publisher_check import Origin
from orderflow.messaging.rabbitmq.properties import from_pika
from orderflow.messaging.service import DONE, Incoming, Outcome, UnitOfWork
from orderflow.operations.dead_letters.model import Selection
from orderflow.operations.dead_letters.queue import DeadLetterQueue
from orderflow.operations.management_api import Management
from orderflow.telemetry.tracing.pika_channel import TracedChannel
from tests.builders import a_codec, an_event
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.dead_letters import (
    ALL,
    PRIVATE,
    TRACE,
    ids_in,
    rejected_too_often,
    store_dead_letters,
    taken,
    waited,
)
from tests.rigs.scripted_broker import ScriptedPublisher, deliver

pytestmark = pytest.mark.integration


def test_browsing_repeatedly_neither_loses_nor_reorders(shop: Installation, channels: Channels) -> None:
    stored = store_dead_letters(shop, channels, ["a", "b"] * 50)
    queue = DeadLetterQueue(shop.url("replay"))
    for _ in range(30):
        assert ids_in(queue) == stored
    some = queue.browse(Selection(reason="b"), limit=3)
    assert [letter.message_id for letter in some.letters] == [stored[1], stored[3], stored[5]]
    assert some.total == 100
    assert ids_in(queue) == stored


def test_a_replay_sends_the_same_message_back_without_the_marks_of_its_failure(
    shop: Installation, channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    stored = store_dead_letters(shop, channels, ["bad_data", "other", "bad_data"])
    queue = DeadLetterQueue(shop.url("replay"))
    with caplog.at_level(logging.INFO):
        settled = queue.replay(Selection(reason="bad_data"), limit=10, operator="ann", per_second=1000)
    assert [letter.message_id for letter in settled.gone] == [stored[0], stored[2]]
    back = taken(shop, channels)
    assert [properties.message_id for properties, _ in back] == [stored[0], stored[2]]
    headers = back[0][0].headers
    assert headers["traceparent"] == TRACE
    assert headers["x-replayed-by"] == "ann"
    assert headers["x-original-routing-key"] == "inventory.reserved"
    assert not {"x-retry-count", "x-reason", "x-queue", "x-dead-lettered-at", "x-detail"} & headers.keys()
    assert back[0][0].delivery_mode == 2
    assert ids_in(queue) == [stored[1]]
    lines = [record for record in caplog.records if record.msg == "dead_letters.replayed"]
    audit = {key: lines[0].__dict__[key] for key in ("operator", "message_id", "reason", "trace_id", "queue")}
    assert audit == {
        "operator": "ann",
        "message_id": stored[0],
        "reason": "bad_data",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "queue": "payment_requests",
    }
    assert len(lines) == 2
    assert PRIVATE not in caplog.text


def test_a_replay_is_part_of_the_trace_of_the_order(shop: Installation, channels: Channels) -> None:
    store_dead_letters(shop, channels, ["a"])
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    queue = DeadLetterQueue(shop.url("replay"), traced=partial(TracedChannel, provider=provider))
    queue.replay(ALL, limit=1, operator="ann", per_second=1000)
    (span,) = exported.get_finished_spans()
    _, trace_id, parent, _ = TRACE.split("-")
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == trace_id
    assert f"{span.parent.span_id:016x}" == parent
    ((properties, _),) = taken(shop, channels)
    assert properties.headers["traceparent"] == f"00-{trace_id}-{span.context.span_id:016x}-01"


def test_a_dry_run_changes_nothing(shop: Installation, channels: Channels) -> None:
    stored = store_dead_letters(shop, channels, ["a"] * 5)
    queue = DeadLetterQueue(shop.url("replay"))
    assert len(queue.replay(ALL, limit=10, operator="ann", per_second=1000, dry_run=True).gone) == 5
    assert len(queue.discard(ALL, limit=10, operator="ann", dry_run=True).gone) == 5
    assert ids_in(queue) == stored
    assert taken(shop, channels) == []


def test_replaying_keeps_to_its_rate(shop: Installation, channels: Channels) -> None:
    store_dead_letters(shop, channels, ["a"] * 6)
    before = time.monotonic()
    DeadLetterQueue(shop.url("replay")).replay(ALL, limit=10, operator="ann", per_second=10)
    assert time.monotonic() - before >= 0.6


def test_what_cannot_be_routed_stays(shop: Installation, channels: Channels) -> None:
    stored = store_dead_letters(shop, channels, ["a", "b"])
    Management(shop.management_url).delete("queues", shop.vhost, "payment_requests")
    queue = DeadLetterQueue(shop.url("replay"))
    settled = queue.replay(ALL, limit=10, operator="ann", per_second=1000)
    assert [why for _, why in settled.kept] == ["its queue does not exist"] * 2
    assert settled.gone == ()
    assert ids_in(queue) == stored


def test_a_connection_that_breaks_ends_the_replay_and_the_part_done_is_reported(
    shop: Installation, channels: Channels
) -> None:
    class BreakingChannel(TracedChannel):
        """A channel whose connection breaks at the third copy."""

        sent = 0

        def publish(self, **message: Any) -> None:
            self.sent += 1
            if self.sent == 3:
                wire: Any = self.channel.connection._impl._transport
                wire._sock.shutdown(socket.SHUT_RDWR)
            super().publish(**message)

    stored = store_dead_letters(shop, channels, ["a"] * 5)
    queue = DeadLetterQueue(shop.url("replay"), traced=partial(BreakingChannel, provider=None))
    cut = queue.replay(ALL, limit=4, operator="ann", per_second=1000)
    assert [letter.message_id for letter in cut.gone] == stored[:2]
    assert [(letter.message_id, why) for letter, why in cut.kept] == [
        (stored[2], "the connection to the broker was lost, run the command again")
    ]
    assert cut.left == 2
    DeadLetterQueue(shop.url("replay")).replay(ALL, limit=10, operator="ann", per_second=1000)
    assert {properties.message_id for properties, _ in taken(shop, channels)} == set(stored)


def test_a_message_that_fails_again_during_a_replay_is_not_replayed_twice(
    shop: Installation, channels: Channels
) -> None:
    store_dead_letters(shop, channels, ["a"])
    channel = channels.open(shop.admin_url)
    # A replayed message of payments becomes a dead letter again immediately.
    channel.queue_unbind("payment_requests", "replay", "payment_requests")
    channel.queue_bind("dead_letter_queue", "replay", "payment_requests")
    settled = DeadLetterQueue(shop.url("replay")).replay(ALL, limit=100, operator="ann", per_second=1000)
    assert len(settled.gone) == 1


def test_a_message_dead_lettered_by_the_broker_is_replayed_to_its_queue(shop: Installation, channels: Channels) -> None:
    channel = channels.open(shop.url("payments"))
    event = an_event(InventoryReserved)
    delivery = deliver(event, message_id=str(uuid4()))
    channels.open(shop.url("inventory")).basic_publish(
        "order_events",
        "inventory.reserved",
        encode(event),
        pika.BasicProperties(
            message_id=delivery.properties.message_id,
            delivery_mode=2,
            user_id=shop.user("inventory"),
        ),
        mandatory=True,
    )
    rejected_too_often(channel)
    queue = DeadLetterQueue(shop.url("replay"))
    (letter,) = waited(queue, 1)
    assert (letter.reason, letter.queue, letter.dead_lettered_by) == ("delivery_limit", "payment_requests", "broker")
    assert letter.origin == Origin(shop.user("inventory"), "inventory.reserved")
    assert letter.dead_lettered_at is not None
    queue.replay(ALL, limit=1, operator="ann", per_second=1000)
    ((properties, _),) = taken(shop, channels)
    assert properties.message_id == letter.message_id
    assert not [name for name in properties.headers if "death" in name]
    assert properties.headers["x-original-user-id"] == shop.user("inventory")
    assert properties.headers["x-original-routing-key"] == "inventory.reserved"


KILLED_BEFORE_ACK = """
import os, signal, sys
from pika.adapters.blocking_connection import BlockingChannel
from orderflow.operations.dead_letters.queue import DeadLetterQueue
from orderflow.operations.dead_letters.model import DeadLetter, Selection

acks = 0
acknowledge = BlockingChannel.basic_ack

def ack(self, *arguments, **options):
    global acks
    acks += 1
    if acks == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return acknowledge(self, *arguments, **options)

BlockingChannel.basic_ack = ack
DeadLetterQueue(sys.argv[1]).replay(Selection(), limit=100, operator="ann", per_second=1000)
"""


class Counting:
    """A handler that records the ids of its messages."""

    def __init__(self) -> None:
        self.handled: list[UUID] = []

    def handle(self, messages: Sequence[Incoming], unit_of_work: UnitOfWork) -> Sequence[Outcome]:
        self.handled += [message.message_id for message in messages]
        return [DONE] * len(messages)


def test_a_replay_killed_between_confirm_and_ack_has_each_effect_once(
    shop: Installation, channels: Channels, database: str
) -> None:
    stored = store_dead_letters(shop, channels, ["a"] * 5)
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_ACK, shop.url("replay")], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    queue = DeadLetterQueue(shop.url("replay"))
    left = [letter.message_id for letter in waited(queue, 3)]
    assert stored[2] in left  # confirmed in its queue, and still a dead letter
    queue.replay(ALL, limit=100, operator="ann", per_second=1000)

    copies = taken(shop, channels)
    sent = [properties.message_id for properties, _ in copies]
    assert sorted(sent) == sorted([*stored, stored[2]])
    handler = Counting()
    migrate(Database(database), [messaging_schema()])
    outbox = Outbox(ScriptedPublisher(), a_codec("payments"), lease_seconds=10)
    processor = BatchProcessor(
        handler=handler,
        accepted=(InventoryReserved,),
        codec=a_codec("payments"),
        inbox=Inbox("payment_requests"),
        units_of_work=UnitOfWorkFactory(Database(database), outbox),
    )
    for tag, (properties, body) in enumerate(copies):
        processor([received(tag, properties, body)], BatchObserver())
    assert sorted(map(str, handler.handled)) == sorted(stored)


def received(tag: int, properties: pika.BasicProperties, body: bytes) -> Delivery:
    return Delivery(tag, "replay", "payment_requests", False, from_pika(properties), body, 0.0)
