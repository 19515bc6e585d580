# SPDX-License-Identifier: Apache-2.0
from orderflow.operations.topology.unread import Readers, without_consumers
from orderflow.rabbitmq_definitions import Binding


def bound(source: str, destination: str, kind: str = "queue") -> Binding:
    return Binding(source=source, vhost="shop", destination=destination, destination_type=kind, routing_key="a.key")


def unread(bindings: list[Binding], **consumers: int | None) -> list[str]:
    queues = [Readers(name=name, consumers=count) for name, count in consumers.items()]
    return [found.key[0] for found in without_consumers(bindings, queues)]


def test_a_queue_that_gets_events_needs_a_consumer() -> None:
    bindings = [bound("order_events", name) for name in ("read", "unread", "new")]
    assert unread(bindings, read=1, unread=0, new=None) == ["new", "unread"]


def test_a_partition_gets_events_over_its_own_exchange() -> None:
    bindings = [bound("work", "work_1"), bound("order_events", "work", "exchange"), bound("work", "work_2")]
    assert unread(bindings, work_1=0, work_2=1) == ["work_1"]


def test_retry_queues_dead_letters_and_unbound_queues_need_no_consumer() -> None:
    bindings = [bound("retry", "waiting"), bound("dlx", "dead"), bound("replay", "waiting"), bound("", "unbound")]
    assert unread(bindings, waiting=0, dead=0, unbound=0) == []
