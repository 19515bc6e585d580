# SPDX-License-Identifier: Apache-2.0
"""A consumer whose COMMITs get no response: it takes nothing that it cannot handle, and gives back what it holds."""

from collections.abc import Sequence

import pytest

from local.eventually import eventually
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.connection_watchdog import ConnectionWatchdog
from orderflow.messaging.service import Incoming, Outcome, Transaction
from tests.rigs.consumer import ConsumerRig, cancelled, effects, handle, one, order
from tests.rigs.tcp_proxy import Proxy

pytestmark = pytest.mark.integration

SECONDS = 0.3
"""The longest time that a transaction may take."""


def test_a_consumer_subscribes_only_when_a_write_was_committed(
    database: str, proxy: Proxy, watchdog: ConnectionWatchdog
) -> None:
    proxy.swallows_commits = True
    message = cancelled()
    rig = ConsumerRig(proxy.url, message, longest_transaction_seconds=SECONDS)
    watchdog.watch(rig.database)
    with rig:
        eventually(lambda: len(rig.recorded.pauses) >= 3)
        assert not rig.consumer.subscribed
        proxy.swallows_commits = False
        eventually(lambda: rig.consumer.acknowledged == [message])
    assert proxy.swallowed_commits >= 3
    assert {type(error) for error in rig.recorded.pauses} == {DatabaseUnavailable}
    assert effects(database) == {order(message): 1}
    assert one(database, "select count(*) from inbox") == 1, "nothing is left of the proof"


def test_25_commits_without_a_response_cost_few_deliveries_and_no_message(
    database: str, proxy: Proxy, watchdog: ConnectionWatchdog
) -> None:
    messages = [cancelled() for _ in range(20)]
    handled = list[int]()

    def handler(batch: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
        handled.append(len(batch))
        proxy.swallows_commits = proxy.swallowed_commits < 25
        return handle(batch, transaction)

    rig = ConsumerRig(
        proxy.url, *messages, handler=handler, longest_transaction_seconds=SECONDS, give_back_seconds=SECONDS
    )
    watchdog.watch(rig.database)
    with rig:
        eventually(lambda: rig.consumer.given_back, seconds=30)
        assert not rig.consumer.subscribed, "the next write does not get a response either"
        eventually(lambda: proxy.swallowed_commits >= 25, seconds=60)
        proxy.swallows_commits = False
        eventually(lambda: rig.consumer.acknowledged == messages, seconds=30)
    assert rig.consumer.given_back == 20, "each message counts as delivered twice"
    assert effects(database) == {order(message): 1 for message in messages}


def test_a_consumer_that_waits_for_the_database_can_be_stopped(proxy: Proxy) -> None:
    proxy.open = False
    with ConsumerRig(proxy.url, cancelled()) as rig:
        eventually(lambda: rig.recorded.pauses)
        rig.loop.stop()
        rig.join()
    assert rig.consumer.acknowledged == []
