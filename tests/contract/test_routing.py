# SPDX-License-Identifier: Apache-2.0
"""Where a publication goes and what its receipt says, the same on both brokers."""

from local.eventually import eventually
from orderflow.messaging.broker import Batch, Failure
from tests.contract.broker_harness import BrokerHarness, message, messages
from tests.contract.steps import SECONDS, bodies, deliveries, numbers, sent, take


def test_a_routed_message_is_confirmed_and_arrives_as_it_was_sent(harness: BrokerHarness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("work", prefetch=10)
    publication = message('{"a": "é"}', content_encoding="zstd")
    receipt = sent(broker, [publication])
    assert receipt.confirmed == [publication.key] and not receipt.failures
    (delivery,) = deliveries(take(consumer))
    assert delivery.body == publication.body
    assert delivery.properties == publication.properties
    assert (delivery.exchange, delivery.routing_key) == ("contract", "order.created")
    assert delivery.user_id == harness.user_id
    assert not delivery.redelivered


def test_a_message_without_properties_or_body_arrives_without_them(harness: BrokerHarness) -> None:
    broker = harness.broker()
    bare = message(
        message_id=None, correlation_id=None, type=None, timestamp=None, app_id=None, content_type=None, headers={}
    )
    assert sent(broker, [bare]).confirmed == [bare.key]
    (delivery,) = deliveries(take(broker.consumer("work", prefetch=10)))
    assert (delivery.body, delivery.properties) == (b"", bare.properties)


def test_an_unroutable_message_is_returned_and_its_neighbours_are_not(harness: BrokerHarness) -> None:
    broker = harness.broker()
    group = [message("1"), message("2", routing_key="no.queue"), message("3"), message("4", exchange="")]
    receipt = sent(broker, group)
    assert receipt.failures == {group[1].key: Failure.RETURNED, group[3].key: Failure.RETURNED}
    assert receipt.confirmed == [group[0].key, group[2].key]
    assert bodies(take(broker.consumer("work", prefetch=10), 2)) == ["1", "3"]


def test_of_two_messages_with_one_id_only_the_unroutable_one_is_returned(harness: BrokerHarness) -> None:
    broker = harness.broker()
    for order in (0, 1):
        pair = [
            message("same", exchange="", routing_key="work", message_id="twice", headers={"x-retry-count": 1}),
            message("same", exchange="", routing_key="nowhere", message_id="twice", headers={"x-retry-count": 1}),
        ]
        receipt = sent(broker, pair if order else pair[::-1])
        assert receipt.failures == {pair[1].key: Failure.RETURNED}


def test_the_default_exchange_leads_to_the_queue_of_that_name(harness: BrokerHarness) -> None:
    broker = harness.broker()
    assert not sent(broker, [message("direct", exchange="", routing_key="audit")]).failures
    (delivery,) = deliveries(take(broker.consumer("audit", prefetch=10)))
    assert (delivery.exchange, delivery.routing_key) == ("", "audit")


def test_every_queue_whose_pattern_fits_gets_a_copy(harness: BrokerHarness) -> None:
    broker = harness.broker()
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


def test_the_order_of_publishing_is_the_order_of_arrival(harness: BrokerHarness) -> None:
    broker = harness.broker(window=20)
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


def test_a_refused_message_is_nacked(harness: BrokerHarness) -> None:
    broker = harness.broker()
    receipts = [sent(broker, [message("x", routing_key="small")]) for _ in range(6)]
    assert [failure for receipt in receipts for failure in receipt.failures.values()][-1] is Failure.NACKED
    assert receipts[0].confirmed and not receipts[0].failures


def test_what_names_an_unknown_exchange_is_refused_alone_and_publishing_goes_on(harness: BrokerHarness) -> None:
    broker = harness.broker()
    before, nowhere, after = message("x"), message("x", exchange="nowhere"), message("x")
    receipt = sent(broker, [before, nowhere, after])
    assert receipt.failures == {nowhere.key: Failure.REFUSED}
    eventually(lambda: broker.publisher().room == 1000)
    assert not sent(broker, [message("x")]).failures


def test_an_empty_group_is_settled_at_once(harness: BrokerHarness) -> None:
    broker = harness.broker()
    assert broker.publisher().publish([]).settled
    assert broker.publisher().room == 1000


# Batches
