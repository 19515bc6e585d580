# SPDX-License-Identifier: Apache-2.0
"""Rows that a full queue refused wait for their turn; what the turns are is tested in the unit tests."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from orderflow.events import OrderCancelled, OrderRejected
from orderflow.messaging.broker import Failure, Publication
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.event import Event
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.relay import Relay
from orderflow.messaging.publish.slow_start import MAX_ROWS
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from tests.builders import an_event
from tests.rigs.consumer import CODEC, one, prepare, query
from tests.rigs.scripted_broker import ScriptedPublisher

pytestmark = pytest.mark.integration

INTERVAL = 1.0
FULL, OTHER = OrderRejected.routing_key, OrderCancelled.routing_key
STATE = "select distinct reason, leased_until = 'infinity', leased_by, parked_at from outbox"


class Measured(MessagingInstrumentation):
    """Remembers the last measurement of the outbox."""

    def __init__(self) -> None:
        self.nacked: Mapping[str, int] = {}
        self.rows = 0
        self.oldest_seconds = 0.0

    def outbox_measured(self, *, rows: int, oldest_seconds: float) -> None:
        self.rows, self.oldest_seconds = rows, oldest_seconds

    def outbox_nacked(self, rows: Mapping[str, int]) -> None:
        self.nacked = rows


@pytest.fixture
def url(database: str) -> str:
    prepare(database)
    return database


def full(publication: Publication) -> Failure | None:
    """A queue for one routing key is full."""
    return Failure.NACKED if publication.routing_key == FULL else None


def units_of_work(url: str, publisher: ScriptedPublisher, *, park_seconds: float = 3600) -> UnitOfWorkFactory:
    outbox = Outbox(publisher, CODEC, lease_seconds=3600, park_seconds=park_seconds)
    return UnitOfWorkFactory(Database(url), outbox)


@contextmanager
def relaying(
    url: str, publisher: ScriptedPublisher, clock: ManualClock, instrumentation: MessagingInstrumentation | None = None
) -> Iterator[Relay]:
    loop = Relay(
        publisher=publisher,
        unit_of_work=units_of_work(url, publisher),
        instrumentation=instrumentation or MessagingInstrumentation(),
        clock=clock,
        interval_seconds=INTERVAL,
        lease_seconds=3600,
    )
    yield loop
    loop._finish()


def publish(url: str, rows: int, publisher: ScriptedPublisher, event: type[Event] = OrderRejected) -> list[UUID]:
    """Commit and publish events; their results are recorded."""
    before = len(publisher.published)
    work = units_of_work(url, publisher)
    with work.transaction() as transaction:
        for _ in range(rows):
            transaction.publish(an_event(event))
    work.delete_confirmed()
    work.close()
    return [publication.key for publication in publisher.published[before:]]


def passes(loop: Relay, clock: ManualClock, count: int, seconds: float = INTERVAL) -> list[int]:
    """What some passes published, an interval apart."""
    published = []
    for _ in range(count):
        published.append(loop.relay_once())
        clock.advance(seconds)
    return published


def test_a_nacked_row_is_published_once_and_then_waits_for_its_turn(url: str) -> None:
    publisher = ScriptedPublisher(full)
    publish(url, 300, publisher)
    assert len(publisher.published) == 300
    assert query(url, STATE) == [("nacked", True, None, None)]
    clock = ManualClock()
    with relaying(url, publisher, clock) as loop:
        assert passes(loop, clock, 10) == [1] * 10
    assert query(url, STATE) == [("nacked", True, None, None)]
    assert one(url, "select count(*) from outbox") == 300


def test_the_rows_take_turns_and_one_that_is_nacked_again_goes_to_the_end(url: str) -> None:
    publisher = ScriptedPublisher(full)
    rows = sorted(publish(url, 5, publisher))
    clock = ManualClock()
    with relaying(url, publisher, clock) as loop:
        passes(loop, clock, 7)
    assert [publication.key for publication in publisher.published[5:]] == rows + rows[:2]


def test_events_of_other_routing_keys_do_not_wait_behind_it(url: str) -> None:
    publisher, away = ScriptedPublisher(full), ScriptedPublisher(lambda publication: Failure.LOST)
    publish(url, 3000, publisher)
    waiting = publish(url, 3, away, OrderCancelled)
    before = len(publisher.published)
    with relaying(url, publisher, ManualClock()) as loop:
        assert loop.relay_once() == 4
    assert {publication.key for publication in publisher.published[before:-1]} == set(waiting)
    assert one(url, f"select count(*) from outbox where routing_key = '{OTHER}'") == 0


def test_when_the_queue_has_room_every_row_is_published_once_more_and_deleted(url: str) -> None:
    publisher = ScriptedPublisher(full)
    rows = publish(url, 500, publisher)
    publisher.fate = lambda publication: None
    clock = ManualClock()
    with relaying(url, publisher, clock) as loop:
        assert passes(loop, clock, 16) == [1, 2, 4, 8, 16, 32, *[MAX_ROWS] * 8, 37, 0]
    assert one(url, "select count(*) from outbox") == 0
    assert Counter(publication.key for publication in publisher.published) == dict.fromkeys(rows, 2)


def test_a_queue_that_is_full_again_costs_no_more_than_it_took(url: str) -> None:
    publisher = ScriptedPublisher(full)
    publish(url, 500, publisher)
    room = iter(range(40))
    publisher.fate = lambda publication: full(publication) if next(room, None) is None else None
    clock = ManualClock()
    with relaying(url, publisher, clock) as loop:
        assert passes(loop, clock, 8) == [1, 2, 4, 8, 16, 32, 1, 1]
    assert one(url, "select count(*) from outbox") == 460


def test_relays_of_several_processes_publish_different_rows(url: str) -> None:
    publishers = [ScriptedPublisher(full), ScriptedPublisher(full)]
    publish(url, 100, publishers[0])
    del publishers[0].published[:]
    for publisher in publishers:
        publisher.holding = True
    clock = ManualClock()
    with relaying(url, publishers[0], clock) as one_loop, relaying(url, publishers[1], clock) as other_loop:
        assert (one_loop.relay_once(), other_loop.relay_once()) == (1, 1)
        for publisher in publishers:
            publisher.release()
    keys = [publication.key for publisher in publishers for publication in publisher.published]
    assert len(set(keys)) == 2
    assert query(url, STATE) == [("nacked", True, None, None)]


def test_a_relay_that_starts_begins_with_one_row(url: str) -> None:
    publisher = ScriptedPublisher(full)
    publish(url, 500, publisher)
    publisher.fate = lambda publication: None
    for _ in range(2):
        clock = ManualClock()
        with relaying(url, publisher, clock) as loop:
            assert passes(loop, clock, 4) == [1, 2, 4, 8]


def test_a_row_whose_process_died_in_its_turn_is_published_by_another(url: str) -> None:
    publisher = ScriptedPublisher(full)
    publish(url, 1, publisher)
    publisher.holding = True
    clock = ManualClock()
    with relaying(url, publisher, clock) as loop:
        assert loop.relay_once() == 1
        query(url, "update outbox set leased_until = now(), leased_by = null returning 1")  # as the sweeper does
        heir = ScriptedPublisher(full)
        with relaying(url, heir, clock) as other_loop:
            assert other_loop.relay_once() == 1
        assert query(url, STATE) == [("nacked", True, None, None)]
        publisher.release()


def test_a_nacked_row_is_never_parked_and_its_time_does_not_count_when_it_is_returned_later(url: str) -> None:
    publisher = ScriptedPublisher(full)
    publish(url, 1, publisher)
    query(url, "update outbox set refused_at = now() - interval '2 hours' returning 1")
    clock = ManualClock()
    with relaying(url, publisher, clock) as loop:
        passes(loop, clock, 1)
        loop._unit_of_work.delete_confirmed()
        assert query(url, STATE) == [("nacked", True, None, None)]
        query(url, "update outbox set refused_at = now() - interval '2 hours' returning 1")
        publisher.fate = lambda publication: Failure.RETURNED
        passes(loop, clock, 2)
        assert one(url, "select reason from outbox") == "returned"
        assert one(url, "select parked_at from outbox") is None
        assert one(url, "select refused_at > now() - interval '1 minute' from outbox")


def test_a_row_that_another_process_has_taken_meanwhile_is_left_to_it(url: str) -> None:
    publisher = ScriptedPublisher(full)
    work = units_of_work(url, publisher)
    with work.transaction() as transaction:
        transaction.publish(an_event(OrderRejected))
    query(url, "update outbox set leased_by = 5 returning 1")
    work.delete_confirmed()
    work.close()
    assert one(url, "select leased_by = 5 and reason is null from outbox")


def test_nacked_rows_are_measured_by_routing_key_and_do_not_hide_the_age_of_others(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    measured, clock = Measured(), ManualClock()
    publisher = ScriptedPublisher(lambda publication: Failure.NACKED)
    publish(url, 3, publisher)
    publish(url, 2, publisher, OrderCancelled)
    query(url, "update outbox set created_at = now() - interval '1 day' returning 1")
    publisher.holding = True
    publish(url, 1, publisher)
    publisher.holding, publisher.fate = False, lambda publication: None
    with relaying(url, publisher, clock, measured) as loop:
        loop.relay_once()
        assert measured.nacked == {FULL: 3, OTHER: 2}
        assert measured.rows == 1
        assert measured.oldest_seconds < 3600
        passes(loop, clock, 4)
        assert measured.nacked == {}
    logged = Counter((record.message, record.__dict__.get("routing_key")) for record in caplog.records)
    for key in (FULL, OTHER):
        assert logged["outbox.nacked", key] == logged["outbox.no_longer_nacked", key] == 1


def test_no_statement_is_added_while_nothing_is_nacked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = ScriptedPublisher()
    work = units_of_work(url, publisher)
    for statements in (3, 4):  # begin, insert, commit; then the deletion, too
        with work.transaction() as transaction:
            transaction.publish(an_event(OrderRejected))
        assert transaction.statements == statements
    work.close()
    with relaying(url, publisher, ManualClock()) as loop:
        loop.relay_once()
        executed: list[str] = []
        execute = SqlUnitOfWork.execute

        def record(self: SqlUnitOfWork, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
            executed.append(statement)
            return execute(self, statement, parameters)

        monkeypatch.setattr(SqlUnitOfWork, "execute", record)
        loop.relay_once()
    assert len(executed) == 1, "between two measurements a pass is one statement"
