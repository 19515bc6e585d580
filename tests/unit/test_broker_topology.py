# SPDX-License-Identifier: Apache-2.0
"""The definitions document is derived from the declarations; all mistakes in them are reported."""

import re
from dataclasses import replace

import msgspec
import pytest

from orderflow.broker_topology import (
    declared_queue,
    definitions,
    mistakes,
    service_permission,
    user_names,
    work_queues,
)
from orderflow.events import EVENTS, OrderCreated, PaymentCaptured
from orderflow.messaging.consume.settlement import DELAYS_SECONDS, retry_queue
from orderflow.messaging.service import Queue, Service
from orderflow.rabbitmq_definitions import Definitions
from orderflow.services import SERVICES

DOCUMENT = definitions(SERVICES, vhost="shop")
WORK = [name for service in SERVICES for queue in service.queues for name in work_queues(queue)]
PARTITIONED = (Service(name="one", queues=(Queue(name="work", events=EVENTS, partitions=3),), publishes=EVENTS),)


def permitted(document: Definitions, user: str) -> tuple[str, str, str]:
    entry = next(entry for entry in document.permissions if entry.user == user)
    return entry.configure, entry.write, entry.read


def test_every_queue_is_durable_and_quorum() -> None:
    assert all(queue.durable and queue.arguments == {"x-queue-type": "quorum"} for queue in DOCUMENT.queues)


def test_exactly_one_policy_matches_each_queue() -> None:
    for queue in DOCUMENT.queues:
        matching = [policy for policy in DOCUMENT.policies if re.search(policy.pattern, queue.name)]
        assert [policy.name for policy in matching] == [queue.name]


def test_no_policy_lets_the_broker_drop_messages() -> None:
    for policy in DOCUMENT.policies:
        assert policy.definition["overflow"] == "reject-publish"
        if "dead-letter-exchange" in policy.definition:
            assert policy.definition["dead-letter-strategy"] == "at-least-once"


def test_the_broker_dead_letters_what_crashes_consumers_under_the_name_of_its_queue() -> None:
    policies = {policy.name: policy.definition for policy in DOCUMENT.policies}
    for name in WORK:
        assert policies[name]["delivery-limit"] == 20
        assert policies[name]["dead-letter-exchange"] == "dlx"
        assert policies[name]["dead-letter-routing-key"] == name


def test_a_retry_queue_sends_back_after_its_delay() -> None:
    policies = {policy.name: policy.definition for policy in DOCUMENT.policies}
    for name in WORK:
        for delay in DELAYS_SECONDS:
            definition = policies[retry_queue(name, delay)]
            assert definition["message-ttl"] == delay * 1000
            assert (definition["dead-letter-exchange"], definition["dead-letter-routing-key"]) == ("", name)


def test_dead_letters_may_be_browsed_any_number_of_times() -> None:
    policy = next(policy for policy in DOCUMENT.policies if policy.name == "dead_letter_queue")
    assert policy.definition["delivery-limit"] == -1


def test_a_queue_gets_the_events_it_declares_and_no_others() -> None:
    for service in SERVICES:
        for queue in service.queues:
            keys = {
                binding.routing_key
                for binding in DOCUMENT.bindings
                if (binding.source, binding.destination) == ("order_events", queue.name)
            }
            assert keys == {event.routing_key for event in queue.events}


def test_every_binding_joins_things_that_exist() -> None:
    for document in (DOCUMENT, definitions(PARTITIONED, vhost="shop")):
        exchanges = {exchange.name for exchange in document.exchanges}
        queues = {queue.name for queue in document.queues}
        for binding in document.bindings:
            assert binding.source in exchanges
            assert binding.destination in (queues if binding.destination_type == "queue" else exchanges)


def test_no_service_may_configure_and_each_reads_only_its_own_queues() -> None:
    assert {entry.configure for entry in DOCUMENT.permissions} == {"^$"}
    assert permitted(DOCUMENT, "payments")[2] == "^(payment_requests)$"
    assert permitted(DOCUMENT, "replay") == ("^$", "^replay$", "^dead_letter_queue$")
    assert permitted(DOCUMENT, "monitor") == permitted(DOCUMENT, "topology") == ("^$", "^$", "^$")


def test_a_service_that_publishes_nothing_may_not_write_to_the_events_exchange() -> None:
    assert permitted(DOCUMENT, "notifications")[1] == "^(retry|dlx)$"


def test_every_service_is_held_to_its_own_routing_keys_on_every_topic_exchange() -> None:
    entries = {(entry.user, entry.exchange): entry.write for entry in DOCUMENT.topic_permissions}
    topics = {exchange.name for exchange in DOCUMENT.exchanges if exchange.type == "topic"}
    assert set(entries) == {(service.name, topic) for service in SERVICES for topic in topics}
    for service in SERVICES:
        for event in EVENTS:
            allowed = bool(re.search(entries[service.name, "order_events"], event.routing_key))
            assert allowed == (event in service.publishes)
    assert re.search(entries["payments", "retry"], "payment_requests.retry.5s")
    assert not re.search(entries["notifications", "retry"], "payment_requests.retry.5s")
    assert not re.search(entries["payments", "retry"], "payment_requestsxretry.5s")


def test_a_partitioned_queue_is_spread_by_correlation_id_with_one_active_consumer_each() -> None:
    document = definitions(PARTITIONED, vhost="shop")
    spread = next(exchange for exchange in document.exchanges if exchange.name == "work.of3")
    assert (spread.type, spread.arguments) == ("x-consistent-hash", {"hash-property": "correlation_id"})
    queues = {queue.name: queue.arguments for queue in document.queues}
    for name in ("work.1of3", "work.2of3", "work.3of3"):
        assert queues[name] == {"x-queue-type": "quorum", "x-single-active-consumer": True}
    assert "work" not in queues
    into = [binding for binding in document.bindings if binding.destination == "work"]
    assert {binding.destination_type for binding in into} == {"exchange"}


def test_one_binding_decides_which_partitions_get_events_retries_and_replays() -> None:
    document = definitions(PARTITIONED, vhost="shop")
    (way,) = [binding for binding in document.bindings if binding.source == "work"]
    assert (way.destination, way.destination_type) == ("work.of3", "exchange")
    sources = {binding.source for binding in document.bindings if binding.destination == "work"}
    assert sources == {"order_events", "replay"}
    policies = {policy.name: policy.definition for policy in document.policies}
    for delay in DELAYS_SECONDS:
        assert policies[retry_queue("work", delay)]["dead-letter-exchange"] == "work"
    assert policies["work.2of3"]["dead-letter-routing-key"] == "work"


def test_what_a_service_may_do_does_not_depend_on_the_count_of_partitions() -> None:
    other = (replace(PARTITIONED[0], queues=(replace(PARTITIONED[0].queues[0], partitions=5),)),)
    document, changed = definitions(PARTITIONED, vhost="shop"), definitions(other, vhost="shop")
    assert document.permissions == changed.permissions
    assert document.topic_permissions == changed.topic_permissions
    pattern = permitted(document, "one")[2]
    assert all(re.search(pattern, name) for name in ("work", "work.1of3", "work.12of64"))
    assert not re.search(pattern, "work.retry.1s")


def test_a_service_can_be_held_to_the_partitions_of_one_count() -> None:
    only = service_permission(PARTITIONED[0], "shop", "", only={"work": ["work.1of3"]})
    assert only.read == r"^(work\.1of3)$"


def test_a_work_queue_belongs_to_its_declared_queue() -> None:
    assert declared_queue("order_updates.12of64") == declared_queue("order_updates") == "order_updates"
    assert declared_queue("order_updates.retry.5s") == "order_updates.retry.5s"


def test_an_event_has_one_owner() -> None:
    shared = replace(SERVICES[0], publishes=(*SERVICES[0].publishes, PaymentCaptured))
    assert "PaymentCaptured is published by two services" in mistakes([shared, *SERVICES[1:]])


def test_no_user_may_name_another_as_the_publisher_of_its_messages() -> None:
    assert {tag for user in DOCUMENT.users for tag in user.tags} == {"administrator", "monitoring"}


def test_a_password_is_in_the_document_only_when_given() -> None:
    assert b"password" not in msgspec.json.encode(DOCUMENT)
    document = definitions(SERVICES, vhost="shop", passwords={name: f"p-{name}" for name in user_names(SERVICES)})
    assert {user.name: user.password for user in document.users}["orders"] == "p-orders"


def test_a_missing_password_is_named() -> None:
    passwords = {name: "secret" for name in user_names(SERVICES) if name != "replay"}
    with pytest.raises(ValueError, match="no password for replay"):
        definitions(SERVICES, vhost="shop", passwords=passwords)


def test_a_prefix_goes_before_every_user_and_nothing_else() -> None:
    document = definitions(SERVICES, vhost="shop", user_prefix="blue-")
    users = {f"blue-{name}" for name in user_names(SERVICES)}
    assert {user.name for user in document.users} == {entry.user for entry in document.permissions} == users
    assert {entry.user for entry in document.topic_permissions} <= users
    assert document.queues == DOCUMENT.queues


def test_the_declared_services_fit_together() -> None:
    assert mistakes(SERVICES) == []


def test_all_mistakes_are_named_together() -> None:
    lonely = Service(
        name="replay",
        queues=(Queue(name="same", events=(PaymentCaptured,)), Queue(name="same", events=(PaymentCaptured,))),
        publishes=(OrderCreated,),
    )
    with pytest.raises(ValueError, match="not consumed") as caught:
        definitions([lonely], vhost="shop")
    text = str(caught.value)
    assert "OrderCreated is published, but not consumed" in text
    assert "PaymentCaptured is consumed, but not published" in text
    assert "StockLow exists, but is not published" in text
    assert "the queue same is declared twice" in text
    assert "the user replay is declared twice" in text
