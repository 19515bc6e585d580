# SPDX-License-Identifier: Apache-2.0
"""What an export says about the partitions of a queue."""

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from orderflow.broker_topology import definitions, service_permission
from orderflow.messaging.service import Service
from orderflow.operations.topology.partition_state import (
    PartitionState,
    UnfinishedChange,
    as_on_broker,
    other_counts,
    partition_state,
)
from orderflow.rabbitmq_definitions import Binding, Definitions
from orderflow.services import SERVICES
from orderflow.services.orders import ORDERS

QUEUE = ORDERS.queues[0]


def services(count: int) -> tuple[Service, ...]:
    orders = replace(ORDERS, queues=(replace(QUEUE, partitions=count), *ORDERS.queues[1:]))
    return tuple(orders if service is ORDERS else service for service in SERVICES)


def state(actual: Definitions) -> PartitionState:
    return partition_state(actual, "shop", "orders", QUEUE)


def way(count: int) -> Binding:
    name = f"order_updates.of{count}"
    return Binding(source=QUEUE.name, vhost="shop", destination=name, destination_type="exchange", routing_key="")


@pytest.mark.parametrize("count", [1, 2, 12])
def test_the_bound_partitions_are_the_count(count: int) -> None:
    found = state(definitions(services(count), vhost="shop"))
    assert (found.count, found.targets, found.others(count)) == (count, (), [])


def test_a_new_vhost_has_the_declared_count() -> None:
    assert state(Definitions()).count == QUEUE.partitions
    assert state(definitions(services(2), vhost="other")).count == QUEUE.partitions


def test_partitions_that_their_service_may_not_read_are_a_change_that_is_not_finished() -> None:
    document = definitions(services(4), vhost="shop")
    held = service_permission(ORDERS, "shop", "", only={QUEUE.name: ["order_updates.1of2", "order_updates.2of2"]})
    found = state(changed(document, permissions=[held]))
    assert found.targets == [4]
    with pytest.raises(UnfinishedChange, match="run `orderflow topology partitions order_updates 4`"):
        _ = found.count
    both = state(changed(document, permissions=[held], bindings=[*document.bindings, way(2)]))
    assert both.bound == {2, 4}
    assert both.targets == [4]


def test_two_bound_counts_are_a_change_whose_end_is_not_known() -> None:
    document = definitions(services(4), vhost="shop")
    assert state(changed(document, bindings=[*document.bindings, way(2)])).targets == [2, 4]


def test_the_partitions_of_other_counts_are_found_by_their_names() -> None:
    document = definitions(services(4), vhost="shop")
    queues = [changed(document.queues[0], name=name) for name in ("order_updates", "order_updates.1of2", "left.1of2")]
    found = state(changed(document, queues=[*document.queues, *queues]))
    assert found.others(4) == ["order_updates", "order_updates.1of2"]
    assert found.other_counts(4) == [1, 2]


def test_a_document_keeps_the_counts_of_the_broker() -> None:
    actual = definitions(services(4), vhost="shop")
    assert as_on_broker(SERVICES, actual, "shop", "") == services(4)
    assert as_on_broker(SERVICES, actual, "shop", "", but=QUEUE.name) == SERVICES
    (difference,) = other_counts(services(4), SERVICES)
    assert str(difference).startswith("changed queue order_updates: it has 4 partitions, should have 1")
    assert not difference.importable
