# SPDX-License-Identifier: Apache-2.0
"""ORDERFLOW_PARTITIONS: other counts than those of the declarations, and two of them while one changes."""

import pytest

from orderflow.broker_topology import work_queues
from orderflow.messaging.errors import SettingsError
from orderflow.partition_counts import PartitionCounts
from orderflow.services import SERVICES
from orderflow.services.orders import ORDERS
from orderflow.settings import Settings

UPDATES, AVAILABILITY = ORDERS.queues


def consumed(setting: str) -> list[str]:
    several = PartitionCounts(setting, SERVICES).consumed(UPDATES)
    return [name for queue in several for name in work_queues(queue)]


def test_without_a_setting_the_declaration_counts() -> None:
    assert consumed("") == ["order_updates"]
    assert PartitionCounts("", SERVICES).wanted(SERVICES) == SERVICES


def test_a_process_consumes_the_partitions_of_every_count_that_is_named() -> None:
    assert consumed("order_updates=2") == ["order_updates.1of2", "order_updates.2of2"]
    assert consumed("order_updates=1+2") == ["order_updates", "order_updates.1of2", "order_updates.2of2"]


def test_other_queues_keep_their_counts() -> None:
    assert PartitionCounts("order_updates=2", SERVICES).consumed(AVAILABILITY) == (AVAILABILITY,)


def test_the_last_count_is_the_one_that_the_broker_is_to_have() -> None:
    wanted = PartitionCounts("order_updates=4+3", SERVICES).wanted(SERVICES)
    assert [queue.partitions for service in wanted for queue in service.queues if queue.name == "order_updates"] == [3]


def test_a_queue_that_no_service_has_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        PartitionCounts("order_update=2", SERVICES)
    assert caught.value.problems == ["ORDERFLOW_PARTITIONS: there is no queue order_update"]


@pytest.mark.parametrize("setting", ["order_updates", "order_updates=0", "order_updates=2+", "order_updates=x", "a=65"])
def test_what_is_no_count_is_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match="ORDERFLOW_PARTITIONS"):
        Settings.from_env({"ORDERFLOW_PARTITIONS": setting})
