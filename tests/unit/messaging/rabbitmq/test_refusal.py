# SPDX-License-Identifier: Apache-2.0
import pytest
from pika.exceptions import ChannelClosedByBroker, ChannelClosedByClient, StreamLostError

from orderflow.messaging.broker import Failure
from orderflow.messaging.rabbitmq.refusal import Refusal, refusal

TOO_LARGE = "PRECONDITION_FAILED - message size 3145728 is larger than configured max size 2097152"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (ChannelClosedByBroker(406, TOO_LARGE), Refusal(Failure.TOO_LARGE, 3145728)),
        (ChannelClosedByBroker(403, "ACCESS_REFUSED - write access refused"), Refusal(Failure.REFUSED)),
        (ChannelClosedByBroker(404, "NOT_FOUND - no exchange 'order_events'"), Refusal(Failure.REFUSED)),
        (ChannelClosedByBroker(541, "INTERNAL_ERROR"), None),
        (ChannelClosedByClient(200, "Normal shutdown"), None),
        (StreamLostError("reset"), None),
    ],
)
def test_only_an_error_of_a_publish_is_a_refusal(reason: BaseException, expected: Refusal | None) -> None:
    assert refusal(reason) == expected
