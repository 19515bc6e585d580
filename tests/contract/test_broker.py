# SPDX-License-Identifier: Apache-2.0
"""What every broker promises, asked of the one in memory and of the real one."""

import threading
from collections.abc import Sequence

import pytest

from orderflow.messaging.broker import Batch, Broker, Consumer, Delivery, Failure, Publication, Receipt
from tests.contract.grounds import Ground, message, messages
from tests.fakes import eventually

SECONDS = 15.0


def sent(broker: Broker, publications: Sequence[Publication]) -> Receipt:
    receipt = broker.publisher().publish(publications)
    assert receipt.wait(SECONDS)
    return receipt


def take(consumer: Consumer, count: int = 1, *, limit: int = 250, limit_bytes: int = 10**6) -> list[Batch]:
    """Batches with so many messages in all."""
    batches: list[Batch] = []
    missing = count
    while missing > 0:
        batch = consumer.receive(
            limit=min(limit, missing), limit_bytes=limit_bytes, linger_seconds=0.05, timeout_seconds=SECONDS
        )
        assert batch is not None, f"{missing} of {count} messages did not come"
        batches.append(batch)
        missing -= len(batch.deliveries)
    return batches


def nothing_comes(consumer: Consumer) -> bool:
    return consumer.receive(limit=1, limit_bytes=1, linger_seconds=0, timeout_seconds=0.2) is None


def deliveries(batches: Sequence[Batch]) -> list[Delivery]:
    return [delivery for batch in batches for delivery in batch.deliveries]


def bodies(batches: Sequence[Batch]) -> list[str]:
    return [delivery.body.decode().strip() for delivery in deliveries(batches)]


def numbers(count: int, first: int = 0) -> list[str]:
    return [str(number) for number in range(first, first + count)]


def test_a_routed_message_is_confirmed_and_arrives_as_it_was_sent(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=10)
    publication = message('{"a": "é"}', content_encoding="zstd")
    receipt = sent(broker, [publication])
    assert receipt.confirmed == [publication.key] and not receipt.failures
    (delivery,) = deliveries(take(consumer))
    assert delivery.body == publication.body
    assert delivery.properties == publication.properties
    assert (delivery.exchange, delivery.routing_key) == ("contract", "order.created")
    assert not delivery.redelivered


def test_a_message_without_properties_or_body_arrives_without_them(ground: Ground) -> None:
    broker = ground.broker()
    bare = message(
        message_id=None, correlation_id=None, type=None, timestamp=None, app_id=None, content_type=None, headers={}
    )
    assert sent(broker, [bare]).confirmed == [bare.key]
    (delivery,) = deliveries(take(broker.consumer("work", prefetch=10)))
    assert (delivery.body, delivery.properties) == (b"", bare.properties)


def test_an_unroutable_message_is_returned_and_its_neighbours_are_not(ground: Ground) -> None:
    broker = ground.broker()
    group = [message("1"), message("2", routing_key="nobody.wants"), message("3"), message("4", exchange="")]
    receipt = sent(broker, group)
    assert receipt.failures == {group[1].key: Failure.RETURNED, group[3].key: Failure.RETURNED}
    assert receipt.confirmed == [group[0].key, group[2].key]
    assert bodies(take(broker.consumer("work", prefetch=10), 2)) == ["1", "3"]


def test_of_two_messages_with_one_id_only_the_unroutable_one_is_returned(ground: Ground) -> None:
    broker = ground.broker()
    for order in (0, 1):
        pair = [
            message("same", exchange="", routing_key="work", message_id="twice", headers={"x-retry-count": 1}),
            message("same", exchange="", routing_key="nowhere", message_id="twice", headers={"x-retry-count": 1}),
        ]
        receipt = sent(broker, pair if order else pair[::-1])
        assert receipt.failures == {pair[1].key: Failure.RETURNED}


def test_the_default_exchange_leads_to_the_queue_of_that_name(ground: Ground) -> None:
    broker = ground.broker()
    assert not sent(broker, [message("direct", exchange="", routing_key="audit")]).failures
    (delivery,) = deliveries(take(broker.consumer("audit", prefetch=10)))
    assert (delivery.exchange, delivery.routing_key) == ("", "audit")


def test_every_queue_whose_pattern_fits_gets_a_copy(ground: Ground) -> None:
    broker = ground.broker()
    work, audit = broker.consumer("work", prefetch=10), broker.consumer("audit", prefetch=10)
    sent(
        broker,
        [
            message("both", routing_key="order.audited"),
            message("audit", routing_key="a.b.c.audited"),
            message("work"),
            message("bare", routing_key="audited"),
        ],
    )
    assert bodies(take(work, 2)) == ["both", "work"]
    assert bodies(take(audit, 3)) == ["both", "audit", "bare"]


def test_the_order_of_publishing_is_the_order_of_arrival(ground: Ground) -> None:
    broker = ground.broker(window=20)
    receipts = [broker.publisher().publish(messages(50, first=first)) for first in range(0, 1000, 50)]
    consumer = broker.consumer("work", prefetch=200)
    batches: list[Batch] = []
    while len(deliveries(batches)) < 1000:
        batches += take(consumer, limit=70)
        consumer.ack(batches[-1])
    assert bodies(batches) == numbers(1000)
    assert all(receipt.wait(SECONDS) and not receipt.failures for receipt in receipts)
    tags = [delivery.tag for delivery in deliveries(batches)]
    assert tags == sorted(tags)


def test_a_refused_message_is_nacked(ground: Ground) -> None:
    broker = ground.broker()
    receipts = [sent(broker, [message("x", routing_key="small")]) for _ in range(6)]
    assert [failure for receipt in receipts for failure in receipt.failures.values()][-1] is Failure.NACKED
    assert receipts[0].confirmed and not receipts[0].failures


def test_an_unknown_exchange_loses_what_is_open_and_publishing_goes_on(ground: Ground) -> None:
    broker = ground.broker()
    lost = sent(broker, [message("x", exchange="nowhere")])
    assert list(lost.failures.values()) == [Failure.LOST]
    eventually(lambda: broker.publisher().room == 1000)
    assert not sent(broker, [message("x")]).failures


def test_an_empty_hand_over_is_settled_at_once(ground: Ground) -> None:
    broker = ground.broker()
    assert broker.publisher().publish([]).settled
    assert broker.publisher().room == 1000


# Batches


def test_a_batch_ends_with_its_limit_and_the_rest_waits(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(7))
    batches = [take(consumer, 3)[0], take(consumer, 3)[0], take(consumer, 1)[0]]
    assert [len(batch.deliveries) for batch in batches] == [3, 3, 1]
    assert bodies(batches) == numbers(7)


def test_a_batch_ends_with_the_message_that_reaches_the_bytes(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(6, size_bytes=100))
    eventually(lambda: ground.depth("work") in (0, 6))
    sizes = [len(batch.deliveries) for batch in take(consumer, 6, limit_bytes=250)]
    assert max(sizes) == 3 and sum(sizes) == 6


def test_a_message_larger_than_the_bytes_is_a_batch_of_its_own(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(2, size_bytes=300_000))
    assert [len(batch.deliveries) for batch in take(consumer, 2, limit_bytes=1000)] == [1, 1]


def test_a_batch_waits_for_stragglers_and_no_longer_than_needed(ground: Ground) -> None:
    broker = ground.broker()
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


def test_a_batch_that_does_not_fill_comes_after_the_linger(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(3))
    assert bodies(take(consumer, 3, limit=250)) == numbers(3)
    assert nothing_comes(consumer)


def test_a_consumer_holds_no_more_than_its_prefetch(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=10)
    sent(broker, messages(35))
    first = take(consumer, 10)
    assert nothing_comes(consumer)
    consumer.ack(first[-1])
    assert bodies(take(consumer, 10)) == numbers(10, first=10)


# Acknowledging


def test_an_ack_acknowledges_its_batch_and_not_more(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(6))
    first, second, _third = take(consumer, 2)[0], take(consumer, 2)[0], take(consumer, 2)[0]
    consumer.ack(first)
    consumer.ack(second)
    broker.close(timeout_seconds=SECONDS)
    eventually(lambda: ground.depth("work") == 2)


def test_what_was_not_acknowledged_comes_back_in_order_and_marked(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(6))
    consumer.ack(take(consumer, 2)[0])
    take(consumer, 1)
    eventually(lambda: ground.depth("work") in (0, 4))
    ground.cut()
    ground.mend()
    again = take(consumer, 4)
    assert bodies(again) == numbers(4, first=2)
    assert all(delivery.redelivered for delivery in deliveries(again))
    consumer.ack(again[-1])
    assert nothing_comes(consumer)


def test_an_ack_of_an_earlier_connection_is_harmless(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, messages(3))
    (old,) = take(consumer, 3)
    ground.cut()
    consumer.ack(old)
    ground.mend()
    (new,) = take(consumer, 3)
    assert new.epoch != old.epoch
    consumer.ack(old)
    eventually(lambda: broker.ready)
    sent(broker, messages(1, first=3))
    assert bodies(take(consumer, 1)) == ["3"]
    ground.cut()
    ground.mend()
    assert sorted(bodies(take(consumer, 4))) == numbers(4)


def test_a_message_moves_on_when_its_time_in_a_waiting_queue_is_over(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=100)
    sent(broker, [message("x", exchange="", routing_key="later")])
    assert nothing_comes(consumer)
    ground.advance(0.5)
    (delivery,) = deliveries(take(consumer))
    assert (delivery.exchange, delivery.routing_key, delivery.body) == ("", "work", b"x")


# The window


def test_the_window_is_never_exceeded_and_everything_goes_through_it(ground: Ground) -> None:
    broker = ground.broker(window=16)
    receipts = [broker.publisher().publish(messages(count)) for count in (1, 15, 16, 17, 100, 351)]
    assert all(receipt.wait(SECONDS) and not receipt.failures for receipt in receipts)
    assert max(ground.watch.on_wire) == 16
    assert sum(ground.watch.written) == ground.watch.confirmed == 500
    assert sorted(ground.watch.tokens) == list(range(1, len(ground.watch.written) + 1))  # type: ignore[type-var]
    eventually(lambda: broker.publisher().room == 16)


def test_no_window_is_larger_than_a_deep_quorum_queue_can_bear(ground: Ground) -> None:
    assert ground.broker(window=5000).publisher().room == 2000


def test_room_shrinks_with_what_is_open_and_comes_back(ground: Ground) -> None:
    broker = ground.broker(window=10)
    publisher = broker.publisher()
    ground.hold()
    first = publisher.publish(messages(4))
    assert publisher.room == 6
    second = publisher.publish(messages(21))
    assert publisher.room == 0
    eventually(lambda: sum(ground.watch.written) == 10)
    assert not first.settled and not second.settled
    ground.release()
    assert first.wait(SECONDS) and second.wait(SECONDS)
    eventually(lambda: publisher.room == 10)


# Lost connections


def test_without_a_connection_a_publication_is_lost_at_once(ground: Ground) -> None:
    broker = ground.broker()
    ground.cut()
    eventually(lambda: not broker.ready)
    receipt = broker.publisher().publish(messages(3))
    assert receipt.settled
    assert list(receipt.failures.values()) == [Failure.LOST] * 3
    assert broker.publisher().room == 0


def test_a_lost_connection_loses_what_is_open_and_what_waits(ground: Ground) -> None:
    broker = ground.broker(window=10)
    ground.hold()
    receipt = broker.publisher().publish(messages(30))
    eventually(lambda: sum(ground.watch.written) == 10)
    ground.cut()
    assert receipt.wait(SECONDS)
    assert list(receipt.failures.values()) == [Failure.LOST] * 30
    ground.release()
    ground.mend()
    eventually(lambda: broker.publisher().room == 10)
    assert not sent(broker, messages(30)).failures
    assert ground.watch.failures == {"lost": 10}


@pytest.mark.parametrize("losses", [3])
def test_no_confirmed_message_is_missing_after_losses_under_load(ground: Ground, losses: int) -> None:
    broker = ground.broker(window=50)
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
        ground.cut()
        ground.mend()
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


def test_whoever_watches_hears_of_each_connection(ground: Ground) -> None:
    ground.broker()
    eventually(lambda: len(ground.watch.connections) == 2)
    assert sorted(ground.watch.connections) == [("consume", True), ("publish", True)]
    ground.cut()
    eventually(lambda: len(ground.watch.connections) == 4)
    assert sorted(ground.watch.connections[2:]) == [("consume", False), ("publish", False)]
    ground.mend()
    eventually(lambda: len(ground.watch.connections) == 6)
    assert sorted(ground.watch.connections[4:]) == [("consume", True), ("publish", True)]


# Blocked


def test_a_blocked_publisher_waits_while_acknowledging_goes_on(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=10)
    sent(broker, messages(20))
    ground.block()
    try:
        first = broker.publisher().publish(messages(1, first=20))
        eventually(lambda: broker.blocked)
        assert broker.publisher().room == 0
        second = broker.publisher().publish(messages(5, first=21))
        consumer.ack(take(consumer, 10)[-1])
        consumer.ack(take(consumer, 10)[-1])
        assert not second.wait(0.2)
    finally:
        ground.unblock()
    assert first.wait(SECONDS) and second.wait(SECONDS)
    assert not first.failures and not second.failures
    eventually(lambda: broker.publisher().room == 1000)
    assert not broker.blocked
    assert ground.watch.blocks[-2:] == [True, False]
    assert bodies(take(consumer, 6)) == numbers(6, first=20)


# Cancelling and closing


def test_a_cancelled_consumer_hands_out_what_has_arrived_and_nothing_is_delivered_twice(ground: Ground) -> None:
    broker = ground.broker()
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
    while not consumer.drained:
        late = consumer.receive(limit=40, limit_bytes=10**6, linger_seconds=0, timeout_seconds=0.05)
        if late is not None:
            seen += late.deliveries
            consumer.ack(late)
    return seen


def test_a_consumer_cancelled_at_once_is_drained_and_takes_nothing_away(ground: Ground) -> None:
    broker = ground.broker()
    sent(broker, messages(60))
    seen: list[Delivery] = []
    for _ in range(5):
        consumer = broker.consumer("work", prefetch=10)
        consumer.cancel()
        seen += _rest(consumer)
    seen += deliveries(take(broker.consumer("work", prefetch=100), 60 - len(seen)))
    assert [delivery.body.decode() for delivery in seen] == numbers(60)
    assert not [delivery for delivery in seen if delivery.redelivered]


def test_a_consumer_cancelled_without_a_connection_is_drained(ground: Ground) -> None:
    broker = ground.broker()
    consumer = broker.consumer("work", prefetch=10)
    sent(broker, messages(5))
    take(consumer, 1)
    ground.cut()
    eventually(lambda: not broker.ready)
    consumer.cancel()
    eventually(lambda: consumer.drained)
    ground.mend()
    assert nothing_comes(consumer)


def test_closing_waits_for_open_confirms(ground: Ground) -> None:
    broker = ground.broker()
    receipt = broker.publisher().publish(messages(2000))
    broker.close(timeout_seconds=SECONDS)
    assert receipt.settled and not receipt.failures
    assert ground.depth("work") == 2000


def test_after_closing_everything_is_lost_and_drained(ground: Ground) -> None:
    broker = ground.broker()
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


def test_confirms_that_never_come_do_not_keep_the_end_back(ground: Ground) -> None:
    broker = ground.broker()
    ground.hold()
    receipt = broker.publisher().publish(messages(3))
    broker.close(timeout_seconds=0.2)
    assert receipt.wait(SECONDS)
    assert list(receipt.failures.values()) == [Failure.LOST] * 3
