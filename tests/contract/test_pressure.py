# SPDX-License-Identifier: Apache-2.0
"""Windows, blocked publishers and lost connections, the same on both brokers."""

import threading

import pytest

from local.eventually import eventually
from orderflow.messaging.broker import Failure
from tests.contract.broker_harness import BrokerHarness, messages
from tests.contract.steps import SECONDS, bodies, numbers, sent, take


def test_the_window_is_never_exceeded_and_everything_goes_through_it(harness: BrokerHarness) -> None:
    broker = harness.broker(window=16)
    receipts = [broker.publisher().publish(messages(count)) for count in (1, 15, 16, 17, 100, 351)]
    assert all(receipt.wait(SECONDS) and not receipt.failures for receipt in receipts)
    assert max(harness.reports.on_wire) == 16
    assert sum(harness.reports.written) == harness.reports.confirmed == 500
    assert sorted(harness.reports.settled_groups) == list(range(1, len(harness.reports.written) + 1))
    eventually(lambda: broker.publisher().room == 16)


def test_no_window_is_larger_than_a_deep_quorum_queue_can_bear(harness: BrokerHarness) -> None:
    assert harness.broker(window=5000).publisher().room == 2000


def test_room_shrinks_with_what_is_open_and_comes_back(harness: BrokerHarness) -> None:
    broker = harness.broker(window=10)
    publisher = broker.publisher()
    harness.hold()
    first = publisher.publish(messages(4))
    assert publisher.room == 6
    second = publisher.publish(messages(21))
    assert publisher.room == 0
    eventually(lambda: sum(harness.reports.written) == 10)
    assert not first.settled and not second.settled
    harness.release()
    assert first.wait(SECONDS) and second.wait(SECONDS)
    eventually(lambda: publisher.room == 10)


# Lost connections


def test_without_a_connection_a_publication_is_lost_at_once(harness: BrokerHarness) -> None:
    broker = harness.broker()
    harness.cut()
    eventually(lambda: not broker.ready)
    receipt = broker.publisher().publish(messages(3))
    assert receipt.settled
    assert list(receipt.failures.values()) == [Failure.LOST] * 3
    assert broker.publisher().room == 0


def test_a_lost_connection_loses_what_is_open_and_what_waits(harness: BrokerHarness) -> None:
    broker = harness.broker(window=10)
    harness.hold()
    receipt = broker.publisher().publish(messages(30))
    eventually(lambda: sum(harness.reports.written) == 10)
    harness.cut()
    assert receipt.wait(SECONDS)
    assert list(receipt.failures.values()) == [Failure.LOST] * 30
    harness.release()
    harness.mend()
    eventually(lambda: broker.publisher().room == 10)
    assert not sent(broker, messages(30)).failures
    assert harness.reports.failures == {"lost": 10}


@pytest.mark.parametrize("losses", [3])
def test_no_confirmed_message_is_missing_after_losses_under_load(harness: BrokerHarness, losses: int) -> None:
    broker = harness.broker(window=50)
    confirmed: set[str] = set()
    stop = threading.Event()

    def publish() -> None:
        first = 0
        while not stop.is_set():
            group = messages(20, first=first)
            first += 20
            receipt = broker.publisher().publish(group)
            assert receipt.wait(SECONDS)
            good = set(receipt.confirmed)
            confirmed.update(each.body.decode() for each in group if each.key in good)
            stop.wait(0.001)

    thread = threading.Thread(target=publish)
    thread.start()
    for _ in range(losses):
        before = len(confirmed)
        eventually(lambda before=before: len(confirmed) > before + 100)  # type: ignore[misc]
        harness.cut()
        harness.mend()
    stop.set()
    thread.join(SECONDS)
    assert not thread.is_alive()
    eventually(lambda: broker.publisher().room == 50)
    consumer = broker.consumer("work", prefetch=1000)
    arrived: set[str] = set()
    while confirmed - arrived:
        (batch,) = take(consumer, limit=1)
        arrived.update(bodies([batch]))
        consumer.ack(batch)


def test_each_connection_is_reported(harness: BrokerHarness) -> None:
    harness.broker()
    eventually(lambda: len(harness.reports.connections) == 2)
    assert sorted(harness.reports.connections) == [("consume", True), ("publish", True)]
    harness.cut()
    eventually(lambda: len(harness.reports.connections) == 4)
    assert sorted(harness.reports.connections[2:]) == [("consume", False), ("publish", False)]
    harness.mend()
    eventually(lambda: len(harness.reports.connections) == 6)
    assert sorted(harness.reports.connections[4:]) == [("consume", True), ("publish", True)]


# Blocked


def test_a_blocked_publisher_waits_while_acknowledging_goes_on(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=10)
    sent(broker, messages(20))
    harness.block()
    try:
        first = broker.publisher().publish(messages(1, first=20))
        eventually(lambda: broker.blocked)
        assert broker.publisher().room == 0
        written = sum(harness.reports.written)
        second = broker.publisher().publish(messages(5, first=21))
        consumer.ack(take(consumer, 10)[-1])
        # These come because of the ack, and the ack follows the publication through the same thread.
        consumer.ack(take(consumer, 10)[-1])
        assert sum(harness.reports.written) == written and not second.settled
    finally:
        harness.unblock()
    assert first.wait(SECONDS) and second.wait(SECONDS)
    assert not first.failures and not second.failures
    eventually(lambda: broker.publisher().room == 1000)
    assert not broker.blocked
    assert harness.reports.blocks[-2:] == [True, False]
    assert bodies(take(consumer, 6)) == numbers(6, first=20)


# Cancelling and closing
