# SPDX-License-Identifier: Apache-2.0
"""The dead letter commands on a real broker, with the user that may replay and no other right."""

import argparse
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

import pika
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orderflow.messages import InventoryReserved, encode
from orderflow.messaging.attempt import Attempt
from orderflow.messaging.broker import Delivery, Properties, Publication
from orderflow.messaging.codec import Codec
from orderflow.messaging.database import Database, migrate
from orderflow.messaging.dead_letter import dead_letter
from orderflow.messaging.hooks import BatchSpan
from orderflow.messaging.inbox import Inbox
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.service import DONE, Incoming, Outcome, Transaction
from orderflow.messaging.unit_of_work import UnitOfWork
from orderflow.operations import dead_letters_command
from orderflow.operations.dead_letter_queue import DeadLetterQueue
from orderflow.operations.dead_letters import Selection
from orderflow.operations.dead_letters_view import terminal
from orderflow.operations.management import Management
from orderflow.settings import Settings
from orderflow.telemetry.pika_adapter import TracedChannel
from tests.builders import NOW, an_event
from tests.fakes import ScriptedPublisher, deliver
from tests.integration.operations.conftest import Channels, Shop

pytestmark = pytest.mark.integration

ALL = Selection()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PRIVATE = "customer-secret-name"


def park(shop: Shop, channels: Channels, reasons: Sequence[str]) -> list[str]:
    """Dead letters of payments, as the core parks them; their message ids."""
    channel = channels.open(shop.url("payments"))
    ids = [str(uuid4()) for _ in reasons]
    for number, (message_id, reason) in enumerate(zip(ids, reasons, strict=True)):
        parked_at = NOW + timedelta(seconds=number)
        event = an_event(InventoryReserved, user_id=PRIVATE)
        failed = deliver(event, message_id=message_id, headers={"traceparent": TRACE, "x-retry-count": 3})
        publish(channel, dead_letter(failed, queue="payment_requests", reason=reason, detail="why", now=parked_at))
    return ids


def publish(channel: Any, publication: Publication) -> None:
    sent = publication.properties
    properties = pika.BasicProperties(
        message_id=sent.message_id,
        correlation_id=sent.correlation_id,
        type=sent.type,
        timestamp=sent.timestamp,
        content_type=sent.content_type,
        headers=dict(sent.headers),
        delivery_mode=2,
    )
    channel.basic_publish(publication.exchange, publication.routing_key, publication.body, properties, mandatory=True)


def taken(shop: Shop, channels: Channels, queue: str = "payment_requests") -> list[tuple[pika.BasicProperties, bytes]]:
    """Everything that is in a queue, taken out of it."""
    channel = channels.open(shop.admin_url)
    found: list[tuple[pika.BasicProperties, bytes]] = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None or properties is None or body is None:
            return found
        found.append((properties, body))


def ids_in(queue: DeadLetterQueue) -> list[str]:
    return [letter.message_id for letter in queue.browse(ALL, limit=1000).letters]


def command(shop: Shop, *words: str) -> tuple[int, str]:
    """Exit code and output of the command, as the user who may replay."""
    parser = argparse.ArgumentParser()
    dead_letters_command.arguments(parser)
    console = terminal(width=300)
    with console.capture() as captured:
        settings = Settings(amqp_url=shop.url("replay"))
        code = dead_letters_command.run(parser.parse_args(words), settings, console=console)
    return code, captured.get()


def test_looking_any_number_of_times_neither_loses_nor_reorders(shop: Shop, channels: Channels) -> None:
    parked = park(shop, channels, ["a", "b"] * 50)
    queue = DeadLetterQueue(shop.url("replay"))
    for _ in range(30):
        assert ids_in(queue) == parked
    some = queue.browse(Selection(reason="b"), limit=3)
    assert [letter.message_id for letter in some.letters] == [parked[1], parked[3], parked[5]]
    assert some.total == 100
    assert ids_in(queue) == parked


def test_a_replay_sends_the_same_message_back_without_the_marks_of_its_failure(
    shop: Shop, channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    parked = park(shop, channels, ["bad_data", "other", "bad_data"])
    queue = DeadLetterQueue(shop.url("replay"))
    with caplog.at_level(logging.INFO):
        settled = queue.replay(Selection(reason="bad_data"), limit=10, operator="ann", per_second=1000)
    assert [letter.message_id for letter in settled.gone] == [parked[0], parked[2]]
    back = taken(shop, channels)
    assert [properties.message_id for properties, _ in back] == [parked[0], parked[2]]
    headers = back[0][0].headers
    assert headers["traceparent"] == TRACE
    assert headers["x-replayed-by"] == "ann"
    assert headers["x-original-routing-key"] == "inventory.reserved"
    assert not {"x-retry-count", "x-reason", "x-queue", "x-dead-lettered-at", "x-detail"} & headers.keys()
    assert back[0][0].delivery_mode == 2
    assert ids_in(queue) == [parked[1]]
    lines = [record for record in caplog.records if record.msg == "dead_letters.replayed"]
    audit = {key: lines[0].__dict__[key] for key in ("operator", "message_id", "reason", "trace_id", "queue")}
    assert audit == {
        "operator": "ann",
        "message_id": parked[0],
        "reason": "bad_data",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "queue": "payment_requests",
    }
    assert len(lines) == 2
    assert PRIVATE not in caplog.text


def test_a_replay_is_part_of_the_trace_of_the_order(shop: Shop, channels: Channels) -> None:
    park(shop, channels, ["a"])
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


def test_a_dry_run_changes_nothing(shop: Shop, channels: Channels) -> None:
    parked = park(shop, channels, ["a"] * 5)
    queue = DeadLetterQueue(shop.url("replay"))
    assert len(queue.replay(ALL, limit=10, operator="ann", per_second=1000, dry_run=True).gone) == 5
    assert len(queue.discard(ALL, limit=10, operator="ann", dry_run=True).gone) == 5
    assert ids_in(queue) == parked
    assert taken(shop, channels) == []


def test_replaying_keeps_to_its_rate(shop: Shop, channels: Channels) -> None:
    park(shop, channels, ["a"] * 6)
    before = time.monotonic()
    DeadLetterQueue(shop.url("replay")).replay(ALL, limit=10, operator="ann", per_second=10)
    assert time.monotonic() - before >= 0.6


def test_what_cannot_be_routed_stays(shop: Shop, channels: Channels) -> None:
    parked = park(shop, channels, ["a", "b"])
    Management(shop.management_url).delete("queues", shop.vhost, "payment_requests")
    queue = DeadLetterQueue(shop.url("replay"))
    settled = queue.replay(ALL, limit=10, operator="ann", per_second=1000)
    assert [why for _, why in settled.kept] == ["its queue is not there"] * 2
    assert settled.gone == ()
    assert ids_in(queue) == parked


def test_what_fails_again_while_replaying_is_not_replayed_twice(shop: Shop, channels: Channels) -> None:
    park(shop, channels, ["a"])
    channel = channels.open(shop.admin_url)
    # Whatever comes back for payments goes to the dead letters at once.
    channel.queue_unbind("payment_requests", "replay", "payment_requests")
    channel.queue_bind("dead_letter_queue", "replay", "payment_requests")
    settled = DeadLetterQueue(shop.url("replay")).replay(ALL, limit=100, operator="ann", per_second=1000)
    assert len(settled.gone) == 1


def test_a_message_that_the_broker_parked_goes_back_to_where_it_crashed(shop: Shop, channels: Channels) -> None:
    channel = channels.open(shop.url("payments"))
    event = an_event(InventoryReserved)
    delivery = deliver(event, message_id=str(uuid4()))
    channels.open(shop.url("inventory")).basic_publish(
        "order_events",
        "inventory.reserved",
        encode(event),
        pika.BasicProperties(message_id=delivery.properties.message_id, delivery_mode=2),
        mandatory=True,
    )
    deliveries = 0
    while deliveries < 21:
        method, _, _ = channel.basic_get("payment_requests")
        if method is not None:
            deliveries += 1
            channel.basic_reject(method.delivery_tag, requeue=True)
    queue = DeadLetterQueue(shop.url("replay"))
    (letter,) = waited(queue, 1)
    assert (letter.reason, letter.queue, letter.parked_by) == ("delivery_limit", "payment_requests", "broker")
    assert letter.original_routing_key == "inventory.reserved"
    assert letter.parked_at is not None
    queue.replay(ALL, limit=1, operator="ann", per_second=1000)
    ((properties, _),) = taken(shop, channels)
    assert properties.message_id == letter.message_id
    assert not [name for name in properties.headers if "death" in name]


def waited(queue: DeadLetterQueue, count: int) -> Any:
    """The dead letters once there are that many; the broker forwards its own in the background."""
    for _ in range(200):
        letters = queue.browse(ALL, limit=1000).letters
        if len(letters) >= count:
            return letters
    pytest.fail(f"there were never {count} dead letters")


KILLED_BEFORE_ACK = """
import os, signal, sys
from pika.adapters.blocking_connection import BlockingChannel
from orderflow.operations.dead_letter_queue import DeadLetterQueue
from orderflow.operations.dead_letters import Selection

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
    """A handler that counts what it is given."""

    def __init__(self) -> None:
        self.handled: list[UUID] = []

    def __call__(self, messages: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
        self.handled += [message.message_id for message in messages]
        return [DONE] * len(messages)


def test_a_replay_killed_between_confirm_and_ack_has_each_effect_once(
    shop: Shop, channels: Channels, database: str
) -> None:
    parked = park(shop, channels, ["a"] * 5)
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_ACK, shop.url("replay")], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    queue = DeadLetterQueue(shop.url("replay"))
    left = [letter.message_id for letter in waited(queue, 3)]
    assert parked[2] in left  # confirmed in its queue, and still parked
    queue.replay(ALL, limit=100, operator="ann", per_second=1000)

    copies = taken(shop, channels)
    sent = [properties.message_id for properties, _ in copies]
    assert sorted(sent) == sorted([*parked, parked[2]])
    handler = Counting()
    migrate(Database(database), [("core", (files("orderflow.messaging") / "schema.sql").read_text())])
    outbox = Outbox(ScriptedPublisher(), Codec(app_id="payments"), lease_seconds=10)
    attempt = Attempt(
        handler=handler,
        accepted=(InventoryReserved,),
        codec=Codec(app_id="payments"),
        inbox=Inbox("payment_requests"),
        unit_of_work=UnitOfWork(Database(database), outbox),
    )
    for tag, (properties, body) in enumerate(copies):
        attempt([received(tag, properties, body)], BatchSpan())
    assert sorted(map(str, handler.handled)) == sorted(parked)


def received(tag: int, properties: pika.BasicProperties, body: bytes) -> Delivery:
    sent = Properties(message_id=properties.message_id, content_type=properties.content_type)
    return Delivery(tag, "replay", "payment_requests", False, sent, body, 0.0)


def test_list_and_inspect_show_reasons_and_traces_but_nobodys_name(shop: Shop, channels: Channels) -> None:
    parked = park(shop, channels, ["bad_data", "other"])
    code, text = command(shop, "list", "--reason", "bad_data")
    assert code == 0
    assert parked[0] in text and parked[1] not in text
    assert "1 shown of 2" in text

    code, text = command(shop, "list", "--json")
    listed = json.loads(text)
    assert [letter["reason"] for letter in listed["dead_letters"]] == ["bad_data", "other"]

    code, plain = command(shop, "inspect", parked[0])
    assert code == 0
    code, as_json = command(shop, "inspect", "--json", parked[0])
    shown = json.loads(as_json)["dead_letters"][0]
    assert shown["body"]["user_id"] == shown["body"]["payment_token"] == "***"
    for text in (plain, as_json):
        assert "0af7651916cd43dd8448eb211c80319c" in text
        assert PRIVATE not in text
    assert command(shop, "inspect", "nobody")[0] == 1


def test_replay_and_discard_as_commands(shop: Shop, channels: Channels) -> None:
    parked = park(shop, channels, ["a", "a", "b"])
    assert command(shop, "replay", parked[0], "--rate", "1000")[0] == 0
    code, text = command(shop, "discard", "--reason", "a", "--yes", "--json")
    assert code == 0
    assert [letter["message_id"] for letter in json.loads(text)["discarded"]] == [parked[1]]
    assert [properties.message_id for properties, _ in taken(shop, channels)] == [parked[0]]
    assert ids_in(DeadLetterQueue(shop.url("replay"))) == [parked[2]]


def test_what_the_limit_leaves_behind_is_told(shop: Shop, channels: Channels) -> None:
    park(shop, channels, ["a"] * 5 + ["b"])
    code, text = command(shop, "replay", "--reason", "a", "--limit", "2", "--dry-run")
    assert code == 1
    assert "would replay 2, kept 0, 3 more are meant: run it again" in text
    code, text = command(shop, "discard", "--reason", "a", "--limit", "4", "--yes", "--json")
    assert (code, json.loads(text)["left"]) == (1, 1)
    assert command(shop, "replay", "--all", "--rate", "1000")[0] == 0


def test_what_a_publisher_wrote_does_nothing_to_a_terminal(shop: Shop, channels: Channels) -> None:
    deep: Any = 1
    for _ in range(800):
        deep = [deep]
    channel = channels.open(shop.url("payments"))
    for message_id in ("[/b]", "[red]x", "\x1b[2Jcleared", ":bomb:"):
        properties = pika.BasicProperties(message_id=message_id, type="[/]", headers={})
        body = json.dumps({"items": deep}).encode()
        channel.basic_publish("dlx", "payment_requests", body, properties, mandatory=True)
    code, text = command(shop, "list")
    assert code == 0
    for shown in ("[/b]", "[red]x", "\\x1b[2Jcleared", ":bomb:"):
        assert shown in text
    code, text = command(shop, "inspect", "[/b]")
    assert code == 0
    code, text = command(shop, "discard", "--all", "--yes")
    assert code == 0
    assert "\x1b" not in text


def test_without_the_right_the_broker_says_no(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    dead_letters_command.arguments(parser)
    code = dead_letters_command.run(parser.parse_args(["list"]), Settings(amqp_url=shop.url("payments")))
    assert code == 2
    assert "ACCESS_REFUSED" in capsys.readouterr().err
