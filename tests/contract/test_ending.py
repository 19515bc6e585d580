# SPDX-License-Identifier: Apache-2.0
"""Cancelling and closing, the same on both brokers."""

from local.eventually import eventually
from orderflow.messaging.broker import Consumer, Delivery, Failure
from tests.contract.broker_harness import BrokerHarness, message, messages
from tests.contract.steps import SECONDS, bodies, deliveries, nothing_comes, numbers, sent, take


def test_a_cancelled_consumer_hands_out_what_has_arrived_and_nothing_is_delivered_twice(harness: BrokerHarness) -> None:
    broker = harness.broker()
    sent(broker, messages(3000))
    seen: list[Delivery] = []
    for _ in range(10):
        consumer = broker.consumer("work", prefetch=150)
        seen += _some_then_drained(consumer)
    last = broker.consumer("work", prefetch=1000)
    while len(seen) < 3000:
        (batch,) = take(last, limit=1)
        last.ack(batch)
        seen += batch.deliveries
    assert [delivery.body for delivery in seen if delivery.redelivered] == []
    assert sorted(int(delivery.body) for delivery in seen) == list(range(3000))
    assert nothing_comes(last)


def _some_then_drained(consumer: Consumer) -> list[Delivery]:
    """Take a few batches, cancel, and take the rest."""
    seen: list[Delivery] = []
    for number in range(3):
        (batch,) = take(consumer, limit=40)
        seen += batch.deliveries
        if number == 2:
            consumer.cancel()
        consumer.ack(batch)
    return seen + _rest(consumer)


def _rest(consumer: Consumer) -> list[Delivery]:
    """Take and acknowledge everything until the cancelled consumer is drained."""
    seen: list[Delivery] = []

    def drained() -> bool:
        if consumer.drained:
            return True
        late = consumer.receive(limit=40, limit_bytes=10**6, linger_seconds=0, timeout_seconds=0.05)
        if late is not None:
            seen.extend(late.deliveries)
            consumer.ack(late)
        return False

    eventually(drained, SECONDS, what="the cancelled consumer is drained", pause=0)
    return seen


def test_a_consumer_cancelled_at_once_is_drained_and_takes_nothing_away(harness: BrokerHarness) -> None:
    broker = harness.broker()
    sent(broker, messages(60))
    seen: list[Delivery] = []
    for _ in range(5):
        consumer = broker.consumer("work", prefetch=10)
        consumer.cancel()
        seen += _rest(consumer)
    seen += deliveries(take(broker.consumer("work", prefetch=100), 60 - len(seen)))
    assert [delivery.body.decode() for delivery in seen] == numbers(60)
    assert not [delivery for delivery in seen if delivery.redelivered]


def test_a_consumer_cancelled_without_a_connection_is_drained(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=10)
    sent(broker, messages(5))
    take(consumer, 1)
    harness.cut()
    eventually(lambda: not broker.ready)
    consumer.cancel()
    eventually(lambda: consumer.drained)
    harness.mend()
    assert nothing_comes(consumer)


def test_the_next_ordered_consumer_begins_when_the_last_one_has_finished_its_batch(harness: BrokerHarness) -> None:
    broker = harness.broker()
    sent(broker, [message(str(number), exchange="", routing_key="single") for number in range(30)])
    first = broker.consumer("single", prefetch=20, ordered=True)
    handled = take(first, 4)
    second = broker.consumer("single", prefetch=30, ordered=True)
    first.cancel()
    eventually(lambda: first.drained)
    assert nothing_comes(first)
    assert nothing_comes(second)
    first.ack(handled[0])
    handled += take(second, 26)
    assert bodies(handled) == numbers(30)
    second.ack(handled[-1])


def test_an_ordered_consumer_that_holds_no_batch_leaves_at_once(harness: BrokerHarness) -> None:
    broker = harness.broker()
    sent(broker, [message(str(number), exchange="", routing_key="single") for number in range(10)])
    for _ in range(3):
        broker.consumer("single", prefetch=5, ordered=True).cancel()
    last = broker.consumer("single", prefetch=5, ordered=True)
    seen: list[str] = []
    while len(seen) < 10:
        (batch,) = take(last)
        last.ack(batch)
        seen += bodies([batch])
    assert seen == numbers(10)


def test_closing_waits_for_open_confirms(harness: BrokerHarness) -> None:
    broker = harness.broker()
    receipt = broker.publisher().publish(messages(2000))
    broker.close(timeout_seconds=SECONDS)
    assert receipt.settled and not receipt.failures
    assert harness.depth("work") == 2000


def test_after_closing_everything_is_lost_and_drained(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=10)
    eventually(lambda: broker.ready)
    consumer.cancel()
    broker.close(timeout_seconds=1)
    broker.close(timeout_seconds=1)
    assert consumer.drained
    assert not broker.ready
    receipt = broker.publisher().publish(messages(2))
    assert receipt.settled and list(receipt.failures.values()) == [Failure.LOST] * 2
    assert nothing_comes(consumer)


def test_confirms_that_never_come_do_not_delay_closing(harness: BrokerHarness) -> None:
    broker = harness.broker()
    harness.hold()
    receipt = broker.publisher().publish(messages(3))
    broker.close(timeout_seconds=0.2)
    assert receipt.wait(SECONDS)
    assert list(receipt.failures.values()) == [Failure.LOST] * 3
