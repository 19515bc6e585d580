# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from uuid import UUID, uuid4

import psycopg
import pytest

from local.eventually import eventually
from orderflow.events import OrderRejected
from orderflow.messaging.broker import Failure
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.relay import Relay
from orderflow.messaging.publish.unit_of_work import UnitOfWorkFactory
from tests.builders import an_event
from tests.rigs.consumer import CODEC, RecordedBatches, one, query
from tests.rigs.scripted_broker import ScriptedPublisher

pytestmark = pytest.mark.integration


def relay(
    url: str,
    publisher: ScriptedPublisher,
    *,
    lease_seconds: float = 60,
    instrumentation: MessagingInstrumentation | None = None,
) -> Relay:
    return Relay(
        publisher=publisher,
        unit_of_work=UnitOfWorkFactory(Database(url), Outbox(publisher, CODEC, lease_seconds=lease_seconds)),
        instrumentation=instrumentation or MessagingInstrumentation(),
        clock=SystemClock(),
        interval_seconds=0.05,
        lease_seconds=lease_seconds,
    )


def leave(url: str, rows: int, *, lease_seconds: float = 0) -> list[str]:
    """Store outbox rows as a process does that is killed after its commit; their ids, oldest first."""
    publisher = ScriptedPublisher()
    publisher.holding = True
    unit_of_work = UnitOfWorkFactory(Database(url), Outbox(publisher, CODEC, lease_seconds=lease_seconds))
    with unit_of_work.transaction() as work:
        for _ in range(rows):
            work.publish(an_event(OrderRejected), trace={"traceparent": "00-a-b-01"})
    unit_of_work.close()
    return [str(publication.key) for publication in publisher.published]


def left(url: str) -> int:
    return int(one(url, "select count(*) from outbox"))


def sent(publisher: ScriptedPublisher) -> list[str]:
    return [str(publication.properties.message_id) for publication in publisher.published]


@pytest.fixture
def running(url: str) -> Iterator[tuple[Relay, ScriptedPublisher]]:
    publisher = ScriptedPublisher()
    loop = relay(url, publisher)
    thread = Thread(target=loop.run)
    thread.start()
    yield loop, publisher
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_a_row_is_sent_as_it_was_written(url: str) -> None:
    publisher, first = ScriptedPublisher(), ScriptedPublisher()
    unit_of_work = UnitOfWorkFactory(Database(url), Outbox(first, CODEC, lease_seconds=0))
    cause = uuid4()
    with unit_of_work.transaction() as work:
        work.publish(an_event(OrderRejected), causation_id=cause, trace={"traceparent": "00-a-b-01"})
    assert relay(url, publisher).relay_once() == 1
    assert publisher.published == first.published


def test_rows_are_taken_after_their_lease_and_not_before(url: str) -> None:
    publisher = ScriptedPublisher()
    leave(url, 3, lease_seconds=60)
    due = leave(url, 2)
    loop = relay(url, publisher)
    assert loop.relay_once() == 2
    assert sorted(sent(publisher)) == sorted(due)
    assert loop.relay_once() == 0, "what was taken is leased again"
    assert left(url) == 3


def test_without_room_a_writer_leaves_its_rows_to_the_relay(url: str) -> None:
    full, publisher = ScriptedPublisher(), ScriptedPublisher()
    full.room = 0
    unit_of_work = UnitOfWorkFactory(Database(url), Outbox(full, CODEC, lease_seconds=60))
    with unit_of_work.transaction() as work:
        work.publish(an_event(OrderRejected))
    assert full.published == []
    assert relay(url, full).relay_once() == 0
    assert relay(url, publisher).relay_once() == 1


def test_two_concurrent_relays_send_each_row_once(url: str) -> None:
    rows = leave(url, 3000)
    publishers = [ScriptedPublisher(), ScriptedPublisher()]

    def drain(publisher: ScriptedPublisher) -> None:
        loop = relay(url, publisher)
        while loop.relay_once():
            pass

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(drain, publishers))
    assert Counter(sent(publishers[0]) + sent(publishers[1])) == dict.fromkeys(rows, 1)


def test_rows_that_another_relay_holds_are_skipped_and_not_waited_for(url: str) -> None:
    publisher = ScriptedPublisher()
    rows = leave(url, 10)
    with psycopg.connect(url) as concurrent:
        concurrent.execute("select from outbox order by id limit 4 for update")
        assert relay(url, publisher).relay_once() == 6
    assert not set(sent(publisher)).intersection(sorted(rows)[:4])


def test_a_late_committer_with_an_older_id_is_sent(url: str) -> None:
    publisher = ScriptedPublisher()
    loop = relay(url, publisher)
    with psycopg.connect(url) as late:
        late.execute(
            "insert into outbox select %s, 'order_events', 'order.rejected', '{}', '', now(), now()", (UUID(int=1),)
        )
        newer = leave(url, 1)
        assert loop.relay_once() == 1
        assert sent(publisher) == newer
        late.commit()
    assert loop.relay_once() == 1
    assert publisher.published[-1].key == UUID(int=1)


@pytest.mark.parametrize("failure", [Failure.RETURNED, Failure.LOST])
def test_rows_that_did_not_reach_a_queue_stay_and_are_sent_again_after_the_lease(url: str, failure: Failure) -> None:
    bad, *good = leave(url, 5)
    publisher = ScriptedPublisher(lambda publication: failure if str(publication.key) == bad else None)
    loop = relay(url, publisher, lease_seconds=0)
    assert [loop.relay_once() for _ in range(3)] == [5, 1, 1]
    assert [str(row[0]) for row in query(url, "select id from outbox")] == [bad]
    publisher.fate = lambda publication: None
    assert [loop.relay_once() for _ in range(3)] == [1, 0, 0]
    assert left(url) == 0
    assert Counter(sent(publisher)) == {bad: 4, **dict.fromkeys(good, 1)}


@pytest.mark.parametrize(
    "failure", sorted(set(Failure) - {Failure.NACKED}, key=str)
)  # whose turn a relay decides: test_slow_start.py
def test_only_what_a_lost_connection_took_along_is_sent_again_before_its_lease_ends(url: str, failure: Failure) -> None:
    """A message that was returned or refused would be so again at once."""
    lossy, publisher = ScriptedPublisher(lambda publication: failure), ScriptedPublisher()
    unit_of_work = UnitOfWorkFactory(Database(url), Outbox(lossy, CODEC, lease_seconds=3600))
    with unit_of_work.transaction() as work:
        work.publish(an_event(OrderRejected))
        work.publish(an_event(OrderRejected))
    unit_of_work.delete_confirmed()
    unit_of_work.close()
    assert relay(url, publisher).relay_once() == (2 if failure is Failure.LOST else 0)


def test_the_lease_that_another_process_has_taken_meanwhile_is_not_ended(url: str) -> None:
    lossy = ScriptedPublisher(lambda publication: Failure.LOST)
    unit_of_work = UnitOfWorkFactory(Database(url), Outbox(lossy, CODEC, lease_seconds=3600))
    with unit_of_work.transaction() as work:
        work.publish(an_event(OrderRejected))
    with psycopg.connect(url) as other:
        other.execute("update outbox set leased_by = 5")
    unit_of_work.delete_confirmed()
    unit_of_work.close()
    assert one(url, "select count(*) from outbox where leased_until > now()") == 1


def test_a_relay_takes_no_more_than_the_publish_window_holds(url: str) -> None:
    publisher = ScriptedPublisher()
    leave(url, 30)
    publisher.room = 20
    loop = relay(url, publisher)
    assert [loop.relay_once() for _ in range(3)] == [20, 10, 0]
    publisher.room = 0
    leave(url, 1)
    assert loop.relay_once() == 0


def test_a_backlog_larger_than_the_window_goes_out_without_waiting_for_the_interval(url: str) -> None:
    publisher = ScriptedPublisher()
    publisher.room = 100
    leave(url, 1500)
    recorded = RecordedBatches()
    loop = relay(url, publisher, instrumentation=recorded)
    loop._interval = 3600
    thread = Thread(target=loop.run)
    thread.start()
    eventually(lambda: left(url) == 0 or len(publisher.published) == 1500)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert (recorded.relayed_rows, left(url)) == (1500, 0)


def test_a_relay_that_is_woken_takes_what_became_due_without_waiting_for_the_interval(url: str) -> None:
    publisher = ScriptedPublisher()
    loop = relay(url, publisher)
    loop._interval = 3600
    thread = Thread(target=loop.run)
    thread.start()
    eventually(lambda: loop._measured > float("-inf"))  # its first pass found nothing
    due = leave(url, 2)
    loop.wake()
    eventually(lambda: sorted(sent(publisher)) == sorted(due))
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_confirmed_rows_are_deleted_when_nothing_else_happens(
    url: str, running: tuple[Relay, ScriptedPublisher]
) -> None:
    _, publisher = running
    publisher.holding = True
    leave(url, 5)
    eventually(lambda: len(publisher.published) == 5)
    assert left(url) == 5
    publisher.release()
    eventually(lambda: left(url) == 0)


def test_the_age_of_the_oldest_row_is_measured(url: str) -> None:
    loop = relay(url, ScriptedPublisher())
    loop._measure()
    assert loop.oldest_seconds == 0
    leave(url, 2, lease_seconds=60)
    with psycopg.connect(url) as connection:
        connection.execute("update outbox set created_at = now() - interval '90 seconds'")
    loop._measured = float("-inf")
    loop._measure()
    assert 90 <= loop.oldest_seconds < 100


def test_a_relay_outlives_the_loss_of_its_database_connection(
    url: str, running: tuple[Relay, ScriptedPublisher]
) -> None:
    _, publisher = running
    first = leave(url, 1)
    eventually(lambda: sent(publisher) == first)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    second = leave(url, 1)
    eventually(lambda: sent(publisher)[-1:] == second)
