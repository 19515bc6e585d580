# SPDX-License-Identifier: Apache-2.0
"""A dead letter keeps how its event was first published, whoever dead-lettered it; a forged claim does not survive."""

from uuid import uuid4

import pika
import pytest

from orderflow.broker_users import REPLAY, broker_users
from orderflow.events import InventoryReserved
from orderflow.messaging.event import encode
from orderflow.messaging.publisher_check import Origin
from orderflow.operations.dead_letters.queue import DeadLetterQueue
from orderflow.services import SERVICES
from orderflow.settings import Settings
from tests.builders import an_event
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.dead_letters import ALL, rejected_too_often, taken, waited

pytestmark = pytest.mark.integration

FORGED = {"x-original-user-id": "payments", "x-original-routing-key": "payment.captured"}


@pytest.mark.parametrize(
    ("publisher", "exchange", "key"),
    [
        ("inventory", "order_events", "inventory.reserved"),
        ("payments", "retry", "payment_requests.retry.1s"),
        ("replay", "replay", "payment_requests"),
    ],
)
def test_what_the_broker_dead_letters_keeps_the_origin_that_can_be_believed(
    publisher: str, exchange: str, key: str, shop: Installation, channels: Channels
) -> None:
    first = Origin(shop.user("inventory"), "inventory.reserved")
    headers = FORGED if publisher == "inventory" else first.headers()
    properties = pika.BasicProperties(
        message_id=str(uuid4()), delivery_mode=2, user_id=shop.user(publisher), headers=dict(headers)
    )
    body = encode(an_event(InventoryReserved))
    channels.open(shop.url(publisher)).basic_publish(exchange, key, body, properties, mandatory=True)
    rejected_too_often(channels.open(shop.url("payments")))

    users = broker_users(Settings(amqp_url=shop.url("replay")), REPLAY, SERVICES)
    queue = DeadLetterQueue(shop.url("replay"), users=users)
    (letter,) = waited(queue, 1)
    assert (letter.dead_lettered_by, letter.origin) == ("broker", first)
    queue.replay(ALL, limit=1, operator="ann", per_second=1000)
    ((properties, _),) = taken(shop, channels)
    assert properties.user_id == shop.user("replay")
    assert first.headers().items() <= properties.headers.items()
