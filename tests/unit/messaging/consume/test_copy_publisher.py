# SPDX-License-Identifier: Apache-2.0
from threading import Event

import pytest

from orderflow.messaging.broker import Failure, Publication
from orderflow.messaging.consume.settlement import CopyPublisher, retry_copy
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.messaging.publisher_check import Origin
from tests.builders import NOW
from tests.rigs.scripted_broker import ScriptedPublisher, deliver


def copies(*delays: int) -> list[Publication]:
    origin = Origin("orders", "order.cancelled")
    return [
        retry_copy(deliver(), origin=origin, queue="q", reason="later", delay_seconds=delay, now=NOW)
        for delay in delays
    ]


def finish(copy_publisher: CopyPublisher, given_up: Event | None = None) -> None:
    copy_publisher.finish(seconds=0.1, given_up=given_up or Event())


def test_it_ends_when_every_copy_is_confirmed() -> None:
    publisher, sent = ScriptedPublisher(), copies(1, 5)
    finish(CopyPublisher(publisher, sent))
    assert publisher.published == sent


def test_without_copies_nothing_is_published() -> None:
    publisher = ScriptedPublisher()
    publisher.holding = True
    finish(CopyPublisher(publisher, []))
    assert publisher.published == []


@pytest.mark.parametrize("failure", Failure)
def test_only_the_copy_that_failed_is_sent_again(failure: Failure) -> None:
    good, bad, other = copies(1, 300, 5)
    publisher = ScriptedPublisher(lambda copy: failure if copy is bad else None)
    copy_publisher = CopyPublisher(publisher, [good, bad, other])
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match=failure.value):
            finish(copy_publisher)
    publisher.fate = lambda copy: None
    finish(copy_publisher)
    assert publisher.published == [good, bad, other, bad, bad, bad]


def test_nothing_is_sent_again_while_its_confirm_may_still_come() -> None:
    publisher, sent = ScriptedPublisher(), copies(1, 5)
    publisher.holding = True
    copy_publisher = CopyPublisher(publisher, sent)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="not confirmed in time"):
            finish(copy_publisher)
    publisher.release()
    finish(copy_publisher)
    assert publisher.published == sent


def test_giving_up_ends_the_wait() -> None:
    publisher, given_up = ScriptedPublisher(), Event()
    publisher.holding = True
    given_up.set()
    with pytest.raises(BrokerUnavailable):
        CopyPublisher(publisher, copies(1)).finish(seconds=3600, given_up=given_up)
