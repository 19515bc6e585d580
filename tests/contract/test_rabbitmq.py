# SPDX-License-Identifier: Apache-2.0
"""Behaviour that only a real broker has."""

import json
import threading
import time
from urllib.parse import quote, urlsplit

import pytest

from local.eventually import eventually
from orderflow.messaging.broker import Failure
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.rabbitmq.consumer import RabbitConsumer
from tests.contract.broker_harness import TOPOLOGY, message, messages
from tests.contract.rabbit_harness import RabbitHarness
from tests.contract.steps import SECONDS, bodies, deliveries, numbers, sent, take

pytestmark = pytest.mark.integration


def connection_names(rabbit: RabbitHarness) -> list[str]:
    """The connections of the vhost, from the management API, which is updated with a delay of seconds."""
    return [each["name"] for each in json.loads(rabbit.api("GET", "vhosts/%v/connections"))]


def test_a_connection_killed_by_an_operator_while_publishing_comes_back(rabbit: RabbitHarness) -> None:
    broker = rabbit.broker(window=10)
    eventually(lambda: len(connection_names(rabbit)) == 2, 30)
    rabbit.hold()
    open_ = broker.publisher().publish(messages(50))
    for name in connection_names(rabbit):
        rabbit.api("DELETE", f"connections/{quote(name)}")
    rabbit.release()
    assert open_.wait(SECONDS)
    assert set(open_.failures.values()) == {Failure.LOST}
    eventually(lambda: broker.ready and broker.publisher().room == 10)
    assert not sent(broker, messages(20)).failures


def test_a_connection_is_named_after_its_process_and_purpose(rabbit: RabbitHarness) -> None:
    rabbit.broker()
    eventually(lambda: len(connection_names(rabbit)) == 2, 30)
    connections = json.loads(rabbit.api("GET", "vhosts/%v/connections"))
    names = sorted(each["client_properties"]["connection_name"] for each in connections)
    assert [name.split()[0] for name in names] == ["contract"] * 2
    assert [name.split()[-1] for name in names] == ["consume", "publish"]
    assert {each["timeout"] for each in connections} == {20}


def test_a_message_that_is_too_large_fails_alone_and_its_neighbours_arrive(
    rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    broker = rabbit.broker()
    large = message("x" * (3 * 1024 * 1024))
    receipt = sent(broker, [*messages(100), large, *messages(100, first=100)])
    assert receipt.failures == {large.key: Failure.TOO_LARGE}
    assert caplog.text.count("publish.channel_closed") == 1
    eventually(lambda: broker.ready and broker.publisher().room == 1000)
    consumer = broker.consumer("work", prefetch=1000)
    eventually(lambda: broker.ready)
    missing = set(numbers(200))
    while missing:  # some arrive twice: their confirms were lost with the channel
        missing -= set(bodies(take(consumer)))


def test_an_unroutable_batch_is_logged_in_one_line(rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture) -> None:
    broker = rabbit.broker()
    receipt = sent(broker, [message(str(number), routing_key="no.queue") for number in range(50)])
    assert set(receipt.failures.values()) == {Failure.RETURNED}
    (line,) = [record for record in caplog.records if record.getMessage() == "publish.returned"]
    assert line.messages == {"contract/no.queue": 50}  # type: ignore[attr-defined]


def test_a_queue_that_is_missing_is_consumed_once_it_is_there(
    rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    broker = rabbit.broker()
    consumer = broker.consumer("late", prefetch=10)
    eventually(lambda: "queue.channel_closed" in caplog.text)
    assert not broker.ready
    assert broker.publisher().room == 1000
    rabbit.declare("late", TOPOLOGY["work"])
    eventually(lambda: broker.ready)
    sent(broker, [message("x", exchange="", routing_key="late")])
    assert bodies(take(consumer)) == ["x"]


def test_a_queue_deleted_under_its_consumer_is_consumed_again(rabbit: RabbitHarness) -> None:
    broker = rabbit.broker()
    consumer = broker.consumer("work", prefetch=10)
    eventually(lambda: broker.ready)
    sent(broker, messages(1))
    (old,) = take(consumer)
    rabbit.api("DELETE", "queues/%v/work")
    eventually(lambda: not broker.ready)
    consumer.ack(old)
    rabbit.declare("work", TOPOLOGY["work"])
    eventually(lambda: broker.ready)
    sent(broker, messages(1, first=1))
    (new,) = take(consumer)
    assert bodies([new]) == ["1"] and new.epoch != old.epoch


def subscribe_often(broker: RabbitMQBroker, consumer: RabbitConsumer) -> None:
    """Return when the I/O thread has run them all."""
    done = threading.Event()
    for action in (*[consumer.subscribe] * 50, done.set):
        broker._loop.add_callback_threadsafe(action)
    assert done.wait(SECONDS)


@pytest.mark.parametrize("connected", [False, True])
def test_a_consumer_has_one_channel_however_often_it_is_asked_to_subscribe(
    rabbit: RabbitHarness, connected: bool
) -> None:
    broker = rabbit.unconnected()
    if connected:
        broker.start()
        eventually(lambda: broker.ready)
    rabbit.hold()  # neither a connection nor a channel can open
    consumer = broker.consumer("work", prefetch=10)
    if not connected:
        broker.start()
    subscribe_often(broker, consumer)
    rabbit.release()
    eventually(lambda: broker.ready)
    subscribe_often(broker, consumer)
    connection = broker._connections["consume"].current
    assert connection is not None and len(connection._channels) == 1
    sent(broker, messages(30))
    batches = take(consumer, 10)
    eventually(lambda: rabbit.depth("work") == 20, what="all but one prefetch stays in the queue")
    consumer.ack(batches[-1])
    batches += take(consumer, 10)
    assert bodies(batches) == [str(number) for number in range(20)]
    assert not [delivery for delivery in deliveries(batches) if delivery.redelivered]


def test_a_broker_that_is_not_there_yet_is_waited_for(rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture) -> None:
    rabbit.proxy.open = False
    broker = rabbit.unconnected()
    consumer = broker.consumer("work", prefetch=10)
    broker.start()
    eventually(lambda: caplog.text.count("broker.disconnected") > 3)
    assert not broker.ready and broker.publisher().room == 0
    assert broker.publisher().publish(messages(1)).settled
    rabbit.mend()
    eventually(lambda: broker.ready)
    sent(broker, messages(1))
    assert bodies(take(consumer)) == ["0"]
    password = urlsplit(rabbit.vhost).password
    assert password and password not in caplog.text


@pytest.mark.parametrize("open_", [True, False])
def test_closing_before_the_connection_is_up_is_prompt(rabbit: RabbitHarness, open_: bool) -> None:
    rabbit.proxy.open = open_
    if open_:
        rabbit.hold()
    broker = rabbit.unconnected()
    consumer = broker.consumer("work", prefetch=10)
    broker.start()
    before = time.monotonic()
    broker.close(timeout_seconds=60)
    assert time.monotonic() - before < 30
    assert not broker._thread.is_alive()
    consumer.cancel()
    assert consumer.drained


def test_a_broker_that_was_never_started_can_be_closed(rabbit: RabbitHarness) -> None:
    broker = rabbit.unconnected()
    broker.close(timeout_seconds=5)
    assert broker.publisher().publish(messages(1)).settled


def test_closing_while_blocked_ends_and_reports_the_messages_as_lost(rabbit: RabbitHarness) -> None:
    broker = rabbit.broker()
    rabbit.block()
    try:
        first = broker.publisher().publish(messages(1))
        eventually(lambda: broker.blocked)
        second = broker.publisher().publish(messages(5))
        before = time.monotonic()
        broker.close(timeout_seconds=0.5)
        assert time.monotonic() - before < 5
        assert first.settled and second.settled
        assert set(second.failures.values()) == {Failure.LOST}
    finally:
        rabbit.unblock()


def test_when_the_io_thread_fails_nothing_stays_open_and_its_tick_stops(
    rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    broker = rabbit.unconnected()
    consumer = broker.consumer("work", prefetch=10)
    broker.start()
    eventually(lambda: broker.ready)
    rabbit.reports.broker = None  # the hook raises
    receipt = broker.publisher().publish(messages(3))
    assert receipt.wait(SECONDS)
    assert set(receipt.failures.values()) == {Failure.LOST}
    broker._thread.join(SECONDS)
    assert not broker.ready and broker.publisher().room == 0
    assert "broker.io_failed" in caplog.text
    assert broker.publisher().publish(messages(1)).settled
    assert consumer.drained
    assert not broker._thread.is_alive()  # nothing else can tick
    assert broker.last_tick == float("-inf")
    broker.close(timeout_seconds=1)


def test_publishing_while_the_connection_ends_never_leaves_a_receipt_open(rabbit: RabbitHarness) -> None:
    broker = rabbit.broker(window=50)
    receipts = []
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            receipts.append(broker.publisher().publish(messages(2)))
            stop.wait(0.0002)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for held in (False, True, False, True, False):
        eventually(lambda: broker.ready)
        confirmed = rabbit.reports.confirmed
        eventually(lambda confirmed=confirmed: rabbit.reports.confirmed > confirmed + 50)  # type: ignore[misc]
        if held:  # so that the cut surely meets a full window
            rabbit.hold()
            eventually(lambda: rabbit.reports.on_wire[-1] == 50)
        rabbit.cut()
        rabbit.mend()
    eventually(lambda: broker.ready)
    broker.close(timeout_seconds=0)
    stop.set()
    for thread in threads:
        thread.join(SECONDS)
    assert [receipt for receipt in receipts if not receipt.wait(SECONDS)] == []
    assert rabbit.reports.failures["lost"] >= 100
    assert broker.publisher()._handed == 0  # type: ignore[attr-defined]
