# SPDX-License-Identifier: Apache-2.0
"""What a broker user may not publish is refused, and costs its neighbours nothing."""

from urllib.parse import urlsplit

import pytest

from local.eventually import eventually
from orderflow.messaging.broker import Failure
from tests.contract.broker_harness import message, messages
from tests.contract.rabbit_harness import RabbitHarness
from tests.contract.steps import deliveries, sent, take

pytestmark = pytest.mark.integration


def test_what_may_not_be_written_is_refused_and_the_back_off_grows(
    rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    with rabbit.user(write="^$") as url:
        user, password = urlsplit(url).username, urlsplit(url).password
        assert user and password
        broker = rabbit.unconnected(url=url)
        broker.start()
        publisher = broker.publisher()
        for closes in range(1, 5):
            eventually(lambda: broker.ready)
            assert set(sent(broker, messages(1)).failures.values()) == {Failure.REFUSED}
            eventually(lambda closes=closes: caplog.text.count("publish.channel_closed") == closes)  # type: ignore[misc]
        closed = [record for record in caplog.records if record.getMessage() == "publish.channel_closed"]
        assert "403" in closed[0].error  # type: ignore[attr-defined]
        assert publisher._backoff._failures == 4
        assert password not in caplog.text
        rabbit.permit(user, write=".*")
        eventually(lambda: broker.ready and not sent(broker, messages(1)).failures)
        assert publisher._backoff._failures == 0


def test_who_names_another_user_than_its_own_publishes_nothing(
    rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    with rabbit.user(write=".*") as url:
        honest, forger = rabbit.unconnected(url=url), rabbit.unconnected(url=url, user_id="payments")
        for broker in (honest, forger):
            broker.start()
            eventually(lambda broker=broker: broker.ready)  # type: ignore[misc]
        assert set(sent(forger, messages(3)).failures.values()) == {Failure.REFUSED}
        eventually(lambda: "user_id property set to 'payments'" in caplog.text)
        assert not sent(honest, messages(1)).failures
        consumer = honest.consumer("work", prefetch=10)
        # A forged one would be first.
        assert [delivery.user_id for delivery in deliveries(take(consumer))] == [urlsplit(url).username]


def test_a_message_that_may_not_be_written_fails_alone_and_its_neighbours_arrive(
    rabbit: RabbitHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker does not say which one it refused, so each of them is tried alone once."""
    with rabbit.user(write=".*") as url:
        topics = {"exchange": "contract", "write": "^order[.]", "read": ".*"}
        rabbit.api("PUT", f"topic-permissions/%v/{urlsplit(url).username}", topics)
        broker = rabbit.unconnected(url=url)
        broker.start()
        eventually(lambda: broker.ready)
        forbidden = [message(routing_key="payment.captured.audited") for _ in range(2)]
        receipt = sent(broker, [*messages(20), *forbidden, *messages(20, first=20)])
        assert receipt.failures == {each.key: Failure.REFUSED for each in forbidden}
        assert caplog.text.count("publish.channel_closed") == 3  # together, and each of the two alone
        assert not sent(broker, messages(20)).failures
