# SPDX-License-Identifier: Apache-2.0
"""Queues that get events and have no consumer are found by ``diff`` and by the reconciler."""

import pytest

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.management_api import Management
from orderflow.operations.topology.unread import UnreadQueues, unread
from tests.integration.operations.conftest import Channels, Installation, consume_all

pytestmark = pytest.mark.integration


class Reports(Instrumentation):
    """Keeps the numbers of unread queues."""

    def __init__(self) -> None:
        self.counts: list[int | None] = []

    def queues_unread(self, count: int | None) -> None:
        self.counts.append(count)


def test_a_bound_queue_that_nobody_reads_is_found_by_diff_and_by_the_monitor(
    shop: Installation, channels: Channels
) -> None:
    management = Management(shop.management_url)
    names = {left.key[0] for left in unread(management, shop.vhost)}
    assert "payment_requests" in names
    assert not names & {"dead_letter_queue", "order_updates.retry.5s"}
    consume_all(shop, channels, but="payment_requests")

    reports = Reports()
    queues = UnreadQueues(shop.api("monitor"), shop.vhost, instrumentation=reports, clock=SystemClock())
    queues.run_once()
    queues.run_once()
    assert reports.counts == [0, 1], "one look is not enough: a process may be about to start"


def test_a_user_who_may_not_look_is_a_failure_of_the_broker_and_ends_no_process(shop: Installation) -> None:
    stranger, reports = shop.api("payments"), Reports()
    queues = UnreadQueues(stranger, shop.vhost, instrumentation=reports, clock=SystemClock())
    with pytest.raises(BrokerUnavailable):
        queues.run_once()
    assert reports.counts == [None], "the number is unknown"


def test_a_broker_that_is_away_makes_the_number_unknown() -> None:
    reports = Reports()
    absent = Management("http://user:x@127.0.0.1:9")
    with pytest.raises(BrokerUnavailable):
        UnreadQueues(absent, "shop", instrumentation=reports, clock=SystemClock()).run_once()
    assert reports.counts == [None]
