# SPDX-License-Identifier: Apache-2.0
"""The number of partitions changes while events arrive: nothing is lost or handled twice, and orders keep their order.

The consumers are held back during a change, so that the old partitions certainly have messages.
"""

from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from local.eventually import eventually
from orderflow.broker_topology import work_queues
from orderflow.broker_users import REPLAY, broker_users
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import messaging_schema, migrate
from orderflow.operations.dead_letters.model import Selection
from orderflow.operations.dead_letters.queue import DeadLetterQueue
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import apply
from orderflow.operations.topology.partition_change import PartitionChange
from orderflow.rabbitmq_definitions import Definitions
from orderflow.services import SERVICES
from orderflow.settings import Settings
from tests.integration.operations.conftest import Installation
from tests.integration.operations.partition_changes import (
    change,
    document,
    killed_after_every_change_of_the_broker,
    killed_while_it_waits,
    states,
)
from tests.rigs.partitioned_orders import QUEUE, REJECTED, OrdersProcess, PaymentsPublisher, Seen

pytestmark = pytest.mark.integration


@pytest.fixture
def two(vhost: str, management_url: str, wanted: Definitions) -> Installation:
    """An installation whose ``order_updates`` has two partitions."""
    shop = Installation(admin_url=vhost, management_url=management_url, vhost=wanted.vhosts[0].name, document=wanted)
    assert not apply(Management(management_url), document(shop, 2)).left
    return shop


@pytest.fixture
def prepared(database: str) -> str:
    """A database with the core's tables."""
    setup = Database(database)
    migrate(setup, [messaging_schema()])
    setup.close()
    return database


@pytest.fixture
def publisher(two: Installation) -> Iterator[PaymentsPublisher]:
    with PaymentsPublisher(two.url("payments"), [uuid4() for _ in range(8)]) as payments:
        yield payments


def dead_letters(shop: Installation) -> DeadLetterQueue:
    url = shop.url("replay")
    return DeadLetterQueue(url, users=broker_users(Settings(amqp_url=url), REPLAY, SERVICES))


def events_wait(shop: Installation, count: int) -> bool:
    """Whether events wait in the partitions of this count, and nobody consumes these."""
    names = work_queues(replace(QUEUE, partitions=count))
    found = [state for name, state in states(shop).items() if name in names]
    return any(state.messages for state in found) and not any(state.consumers for state in found)


def test_nothing_is_lost_doubled_or_reordered_while_the_count_goes_from_2_to_4_to_3(
    two: Installation, prepared: str, publisher: PaymentsPublisher
) -> None:
    seen, late, unlucky, url = Seen(), uuid4(), uuid4(), two.url("orders")
    with OrdersProcess(url, prepared, seen, "order_updates=2+4") as process:
        seen.may_work.set()
        publisher.publish(unlucky, REJECTED)
        eventually(lambda: dead_letters(two).browse(Selection(), limit=1).total == 1, 30, what="a dead letter")
        seen.may_work.clear()
        process.retry_later(late, 0, delay_seconds=30)
        publisher.next(3)
        assert killed_after_every_change_of_the_broker(two, 4, publisher) >= 5
        publisher.next(2)
        eventually(lambda: events_wait(two, 4), 30, what="events wait in the new partitions")
        seen.may_work.set()
        (left,) = change(two, 4).run()
        assert left.startswith(
            "order_updates.1of2, order_updates.2of2 still has consumers: start the processes of orders"
        )
        eventually(lambda: seen.numbers[late] == [0], 60, what="the waiting copy came back")
    with OrdersProcess(url, prepared, seen, "order_updates=4+3"):
        seen.may_work.clear()
        publisher.next(2)
        killed_while_it_waits(two, 3)
        publisher.next(2)
        seen.may_work.set()
        change(two, 3).run()
        seen.rejecting = False
        dead_letters(two).replay(Selection(), limit=1, operator="ann", per_second=1000)
        expected = {**publisher.sent, late: [0], unlucky: [REJECTED]}
        eventually(lambda: seen.count >= sum(map(len, expected.values())), 60, what="all events handled")
    with OrdersProcess(url, prepared, seen, "order_updates=3"):
        assert change(two, 3).run() == ()
    assert dict(seen.numbers) == expected
    assert {name.rpartition("of")[2] for name in seen.queues} == {"2", "4", "3"}
    assert not apply(Management(two.management_url), document(two, 3)).left


def test_without_the_wait_for_the_old_partitions_events_overtake_each_other(
    two: Installation, prepared: str, publisher: PaymentsPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the wait is for: the same change without it."""
    seen, released = Seen(), Seen()
    monkeypatch.setattr(PartitionChange, "_drain", lambda _self: ())
    url = two.url("orders")
    with (
        OrdersProcess(url, prepared, seen, "order_updates=2"),
        OrdersProcess(url, prepared, released, "order_updates=2+4"),
    ):
        publisher.next(3)
        change(two, 4).run()
        publisher.next(3)
        released.may_work.set()
        eventually(lambda: any("of4" in name for name in released.queues), 30, what="new partitions are read")
        first = [numbers[0] for numbers in released.numbers.values()]
        seen.may_work.set()
    assert any(first), "the first event of an order was not the first that was handled"
