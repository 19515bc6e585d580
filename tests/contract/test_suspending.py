# SPDX-License-Identifier: Apache-2.0
"""A suspended consumer holds no message."""

from local.eventually import eventually
from tests.contract.broker_harness import BrokerHarness, message, messages
from tests.contract.steps import bodies, deliveries, nothing_comes, numbers, sent, take


def test_a_consumer_that_begins_suspended_takes_nothing_until_it_is_resumed(harness: BrokerHarness) -> None:
    broker = harness.broker()
    sent(broker, messages(3))
    consumer = broker.consumer("work", prefetch=10, suspended=True)
    assert nothing_comes(consumer)
    assert (broker.ready, broker.suspended) == (True, True)
    consumer.resume()
    assert bodies(take(consumer, 3)) == numbers(3)
    eventually(lambda: broker.ready)
    assert not broker.suspended


def test_what_a_suspended_consumer_held_goes_to_another_one_and_its_late_ack_counts_for_nothing(
    harness: BrokerHarness,
) -> None:
    broker = harness.broker()
    sent(broker, messages(20))
    first = broker.consumer("work", prefetch=20)
    batches = take(first, 5)
    first.suspend()
    second = broker.consumer("work", prefetch=20)
    taken = take(second, 20)
    for batch in batches:
        first.ack(batch)
    assert sorted(bodies(taken), key=int) == numbers(20)
    assert all(delivery.redelivered for delivery in deliveries(taken) if delivery.body in {b"0", b"4"})
    assert nothing_comes(first)


def test_a_consumer_that_is_resumed_gets_everything_again(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=20)
    sent(broker, messages(20))
    take(consumer, 5)
    for _ in range(2):
        consumer.suspend()
        consumer.resume()
    consumer.resume()
    last: list[str] = []
    while len(last) < 20:
        (batch,) = take(consumer)
        if batch.deliveries[0].redelivered:  # else it came before the consumer was suspended
            consumer.ack(batch)
            last += bodies([batch])
    assert sorted(last, key=int) == numbers(20)
    eventually(lambda: harness.depth("work") == 0)


def test_a_suspended_ordered_consumer_leaves_everything_to_the_next_one_in_order(harness: BrokerHarness) -> None:
    broker = harness.broker()
    sent(broker, [message(str(number), exchange="", routing_key="single") for number in range(10)])
    first = broker.consumer("single", prefetch=20, ordered=True)
    take(first, 4)
    second = broker.consumer("single", prefetch=20, ordered=True)
    first.suspend()
    assert bodies(take(second, 10)) == numbers(10)


def test_a_suspended_consumer_stays_so_when_the_connection_is_lost_and_can_be_cancelled(
    harness: BrokerHarness,
) -> None:
    broker = harness.broker()
    sent(broker, messages(2))
    kept, ended = (broker.consumer("work", prefetch=10, suspended=True) for _ in range(2))
    harness.cut()
    eventually(lambda: not broker.ready)
    harness.mend()
    eventually(lambda: broker.ready)
    assert nothing_comes(kept)
    ended.cancel()
    eventually(lambda: ended.drained)
    ended.resume()
    kept.resume()
    assert bodies(take(kept, 2)) == numbers(2)
    assert nothing_comes(ended)
