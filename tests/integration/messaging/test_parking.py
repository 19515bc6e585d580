# SPDX-License-Identifier: Apache-2.0
"""Events that the broker refuses for good are parked with their reason, and the others are published."""

import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pika
import pytest

from local.eventually import eventually
from orderflow.events import EXCHANGE, OrderRejected
from orderflow.messaging.broker import Failure, Publisher
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.relay import Relay
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.operations.failed_work.outbox import OUTBOX
from tests.builders import a_codec, an_event
from tests.rigs.consumer import one, query
from tests.rigs.failed_work import listed, run
from tests.rigs.scripted_broker import ScriptedPublisher

pytestmark = pytest.mark.integration
TOO_LARGE = "x" * (3 * 1024 * 1024)
CODEC = a_codec(compression="off", limit_bytes=16 * 1024 * 1024)


class Measured(MessagingInstrumentation):
    """Remembers the last measurement of the outbox."""

    def __init__(self) -> None:
        self.rows: tuple[int, float] = (0, 0.0)
        self.parked = 0

    def outbox_measured(self, *, rows: int, oldest_seconds: float) -> None:
        self.rows = (rows, oldest_seconds)

    def outbox_parked(self, rows: int) -> None:
        self.parked = rows


def units_of_work(url: str, publisher: Publisher, **options: Any) -> UnitOfWorkFactory:
    return UnitOfWorkFactory(Database(url), Outbox(publisher, CODEC, **{"lease_seconds": 0, **options}))


def relay(url: str, publisher: Publisher, instrumentation: MessagingInstrumentation | None = None) -> Relay:
    return Relay(
        publisher=publisher,
        unit_of_work=units_of_work(url, publisher),
        instrumentation=instrumentation or MessagingInstrumentation(),
        clock=SystemClock(),
        interval_seconds=0.05,
        lease_seconds=0,
    )


def write(work: UnitOfWorkFactory, *users: str) -> None:
    with work.transaction() as transaction:
        for user_id in users:
            transaction.publish(an_event(OrderRejected, user_id=user_id))


def refused_row(url: str, failure: Failure, *, park_seconds: float = 3600, lease_seconds: float = 60) -> None:
    """A row that was refused once."""
    publisher = ScriptedPublisher(lambda publication: failure)
    work = units_of_work(url, publisher, park_seconds=park_seconds, lease_seconds=lease_seconds)
    write(work, "customer-1")
    work.delete_confirmed()
    work.close()


@pytest.fixture
def broker(vhost: str) -> Iterator[RabbitMQBroker]:
    """Connected, with a queue for every event."""
    with pika.BlockingConnection(pika.URLParameters(vhost)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare("all", durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind("all", EXCHANGE, "#")
    broker = RabbitMQBroker(
        vhost, window=1000, instrumentation=MessagingInstrumentation(), clock=SystemClock(), connection_name="parking"
    )
    broker.start()
    eventually(lambda: broker.ready)
    yield broker
    broker.close(timeout_seconds=5)


def test_a_row_that_is_too_large_for_the_broker_is_parked_and_its_neighbours_are_published(
    url: str, broker: RabbitMQBroker, caplog: pytest.LogCaptureFixture
) -> None:
    work = units_of_work(url, broker.publisher(), lease_seconds=60)
    write(work, *["customer-1"] * 50, TOO_LARGE, *["customer-1"] * 50)
    assert work.outbox.wait(20)
    work.delete_confirmed()
    rows = query(url, "select reason, parked_at is not null, leased_until::text, octet_length(body) from outbox")
    assert [row[:3] for row in rows] == [("too_large", True, "infinity")]
    assert rows[0][3] > len(TOO_LARGE)
    assert caplog.text.count("publish.channel_closed") == 1
    (record,) = [record for record in caplog.records if record.message == "outbox.parked"]
    assert (record.levelno, record.__dict__["reasons"]) == (logging.ERROR, {"too_large": 1})
    loop = relay(url, broker.publisher())
    assert loop.relay_once() == 0, "it is not tried again"
    write(work, "customer-1")
    assert work.outbox.wait(20)
    work.delete_confirmed()
    assert one(url, "select count(*) from outbox") == 1
    work.close()
    loop._finish()


@pytest.mark.parametrize("failure", [Failure.RETURNED, Failure.REFUSED])
def test_what_may_be_put_right_is_tried_again_and_parked_when_it_was_refused_for_too_long(
    url: str, failure: Failure
) -> None:
    refused_row(url, failure)
    assert query(url, "select reason, parked_at from outbox") == [(failure.value, None)]
    query(url, "update outbox set refused_at = now() - interval '59 min', leased_until = now() returning 1")
    refusing = ScriptedPublisher(lambda publication: failure)
    loop = relay(url, refusing)
    assert loop.relay_once() == 1
    loop.relay_once()
    assert one(url, "select parked_at from outbox") is None
    query(url, "update outbox set refused_at = now() - interval '61 min', leased_until = now() returning 1")
    loop.relay_once()
    assert loop.relay_once() == 0
    assert one(url, "select parked_at is not null and leased_until = 'infinity' from outbox")
    loop._finish()


def test_a_row_that_costs_the_channel_is_tried_less_and_less_often(url: str) -> None:
    refused_row(url, Failure.REFUSED, lease_seconds=0)
    query(url, "update outbox set refused_at = now() - interval '40 s', leased_until = now() returning 1")
    loop = relay(url, ScriptedPublisher(lambda publication: Failure.REFUSED))
    assert loop.relay_once() == 1
    assert loop.relay_once() == 0
    assert one(url, "select leased_until > now() + interval '30 s' from outbox")
    loop._finish()


def test_a_lost_connection_is_no_refusal(url: str) -> None:
    refused_row(url, Failure.LOST, park_seconds=0)
    assert query(url, "select refused_at, reason, parked_at from outbox") == [(None, None, None)]


def test_a_row_that_another_process_has_taken_meanwhile_is_left_to_it(url: str) -> None:
    publisher = ScriptedPublisher(lambda publication: Failure.TOO_LARGE)
    work = units_of_work(url, publisher, lease_seconds=60)
    write(work, "customer-1")
    query(url, "update outbox set leased_by = 5 returning 1")
    work.delete_confirmed()
    work.close()
    assert one(url, "select parked_at from outbox") is None


def test_parked_rows_are_measured_apart_because_their_age_grows_for_ever(url: str) -> None:
    measured, publisher = Measured(), ScriptedPublisher()
    refused_row(url, Failure.TOO_LARGE)
    query(url, "update outbox set created_at = now() - interval '1 day' returning 1")
    loop = relay(url, publisher, measured)
    loop._measure()
    assert (measured.rows, measured.parked) == ((0, 0.0), 1)
    loop._finish()


def test_an_operator_lists_parked_events_and_retries_or_discards_them(url: str) -> None:
    refused_row(url, Failure.TOO_LARGE)
    refused_row(url, Failure.RETURNED, park_seconds=0)
    query(url, "update outbox set leased_until = now() where parked_at is null returning 1")
    returning = relay(url, ScriptedPublisher(lambda publication: Failure.RETURNED))
    returning._unit_of_work.outbox._park_seconds = 0
    returning.relay_once()
    returning.relay_once()
    returning._finish()
    assert sorted(row["reason"] for row in listed(OUTBOX, url)) == ["returned", "too_large"]
    (unroutable,) = listed(OUTBOX, url, "--reason", "returned")
    assert unroutable["routing_key"] == "order.rejected"
    assert run(OUTBOX, url, "retry", "--reason", "returned") == 0
    publisher = ScriptedPublisher()
    loop = relay(url, publisher)
    assert loop.relay_once() == 1
    assert [publication.key for publication in publisher.published] == [UUID(unroutable["message_id"])]
    loop._finish()
    assert run(OUTBOX, url, "discard", "--all") == 2, "it needs --yes"
    assert run(OUTBOX, url, "discard", "--all", "--yes") == 0
    assert one(url, "select count(*) from outbox") == 0
