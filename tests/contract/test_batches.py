# SPDX-License-Identifier: Apache-2.0
"""How a consumer receives and acknowledges batches, the same on both brokers."""

import threading

from local.eventually import eventually
from orderflow.messaging.broker import Batch
from tests.contract.broker_harness import BrokerHarness, message, messages
from tests.contract.steps import SECONDS, bodies, deliveries, nothing_comes, numbers, sent, take


def test_a_batch_ends_with_its_limit_and_the_rest_waits(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(7))
    batches = [take(consumer, 3)[0], take(consumer, 3)[0], take(consumer, 1)[0]]
    assert [len(batch.deliveries) for batch in batches] == [3, 3, 1]
    assert bodies(batches) == numbers(7)


def test_a_batch_ends_with_the_message_that_reaches_the_bytes(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(6, size_bytes=100))
    eventually(lambda: harness.depth("work") in (0, 6))
    assert [len(batch.deliveries) for batch in take(consumer, 6, limit_bytes=250)] == [3, 3]


def test_a_message_larger_than_the_bytes_is_a_batch_of_its_own(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(2, size_bytes=300_000))
    assert [len(batch.deliveries) for batch in take(consumer, 2, limit_bytes=1000)] == [1, 1]


def test_a_batch_waits_for_later_messages_and_no_longer_than_needed(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    got: list[Batch | None] = []

    def receive() -> None:
        got.append(consumer.receive(limit=2, limit_bytes=10**6, linger_seconds=SECONDS * 4, timeout_seconds=SECONDS))

    thread = threading.Thread(target=receive)
    thread.start()
    sent(broker, messages(1))
    sent(broker, messages(1, first=1))
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert [bodies([batch]) for batch in got if batch] == [["0", "1"]]


def test_a_batch_that_does_not_fill_comes_after_the_linger(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(3))
    got: list[Batch] = []

    def receive() -> None:
        while len(deliveries(got)) < 3:
            batch = consumer.receive(limit=250, limit_bytes=10**6, linger_seconds=0.05, timeout_seconds=SECONDS)
            assert batch is not None
            got.append(batch)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert bodies(got) == numbers(3)
    assert nothing_comes(consumer)


def test_a_consumer_holds_no_more_than_its_prefetch(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=10)
    sent(broker, messages(35))
    first = take(consumer, 10)
    assert nothing_comes(consumer)
    consumer.ack(first[-1])
    assert bodies(take(consumer, 10)) == numbers(10, first=10)


# Acknowledging


def test_an_ack_acknowledges_its_batch_and_not_more(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(6))
    first, second, _third = take(consumer, 2)[0], take(consumer, 2)[0], take(consumer, 2)[0]
    consumer.ack(first)
    consumer.ack(second)
    broker.close(timeout_seconds=SECONDS)
    eventually(lambda: harness.depth("work") == 2)


def test_what_was_not_acknowledged_comes_back_in_order_and_marked(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(6))
    consumer.ack(take(consumer, 2)[0])
    take(consumer, 1)
    eventually(lambda: harness.depth("work") in (0, 4))
    harness.cut()
    harness.mend()
    again = take(consumer, 4)
    assert bodies(again) == numbers(4, first=2)
    assert all(delivery.redelivered for delivery in deliveries(again))
    consumer.ack(again[-1])
    assert nothing_comes(consumer)


def test_an_ack_of_an_earlier_connection_is_harmless(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(3))
    (old,) = take(consumer, 3)
    harness.cut()
    consumer.ack(old)
    harness.mend()
    (new,) = take(consumer, 3)
    assert new.epoch != old.epoch
    consumer.ack(old)
    eventually(lambda: broker.ready)
    sent(broker, messages(1, first=3))
    assert bodies(take(consumer, 1)) == ["3"]
    harness.cut()
    harness.mend()
    assert sorted(bodies(take(consumer, 4))) == numbers(4)


def test_a_message_moves_on_when_its_time_in_a_waiting_queue_is_over(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=100)
    begun = harness.clock.monotonic()
    sent(broker, [message("x", exchange="", routing_key="later")])
    harness.depth("later")  # when it is asked, the memory broker moves what has expired
    harness.advance(0.5)
    (delivery,) = deliveries(take(consumer))
    assert delivery.received_at - begun >= 0.49  # the broker counts in whole milliseconds
    assert (delivery.exchange, delivery.routing_key, delivery.body) == ("", "work", b"x")


# The window
