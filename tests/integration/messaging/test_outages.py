# SPDX-License-Identifier: Apache-2.0
"""The database fails at critical points; nothing is lost, and no effect happens twice."""

import time
from collections.abc import Sequence
from threading import Event

import psycopg
import pytest

from local.eventually import eventually
from orderflow.messaging.errors import DatabaseUnavailable, TransactionAborted
from orderflow.messaging.service import Incoming, Outcome, Transaction, UnitOfWork
from tests.rigs.consumer import ConsumerRig, cancelled, effects, handle, one, order
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.tcp_proxy import COMMITTED, Proxy

pytestmark = pytest.mark.integration


def terminate(url: str) -> int:
    """Terminate the consumer's backends as an administrator would; returns their number."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'rig' and datname = current_database()"
        ).rowcount


class Gate:
    """A handler that waits inside its transaction until the test releases it."""

    def __init__(self) -> None:
        self.entered = Event()
        self.go_on = Event()

    def __call__(self, messages: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
        outcomes = handle(messages, transaction)
        self.entered.set()
        assert self.go_on.wait(20)
        return outcomes


def test_a_backend_killed_in_the_transaction_costs_a_pause_and_nothing_else(url: str) -> None:
    gate, messages = Gate(), [cancelled() for _ in range(50)]
    with ConsumerRig(url, *messages, handler=gate) as rig:
        assert gate.entered.wait(10)
        assert terminate(url) == 1
        gate.go_on.set()
        eventually(lambda: rig.consumer.acknowledged == messages)
    assert isinstance(rig.recorded.pauses[0], DatabaseUnavailable)
    assert effects(url) == {order(message): 1 for message in messages}
    assert (rig.total.done, rig.total.duplicates) == (50, 0)
    assert len(rig.publisher.published) == 50


def test_an_idle_consumer_notices_that_its_backend_is_gone_and_opens_another(url: str) -> None:
    first, second = cancelled(), cancelled()
    with ConsumerRig(url, first) as rig:
        eventually(lambda: one(url, "select count(*) from outbox") == 0 and rig.recorded.batches)
        terminate(url)
        rig.consumer.put(second)
        eventually(lambda: rig.consumer.acknowledged == [first, second])
    assert effects(url) == {order(first): 1, order(second): 1}


def test_without_a_database_nothing_leaves_and_when_it_is_there_work_goes_on(url: str, proxy: Proxy) -> None:
    proxy.open = False
    message, never, malformed = cancelled(), cancelled("never"), cancelled(body=b"?")
    with ConsumerRig(proxy.url, message, never, malformed) as rig:
        eventually(lambda: len(rig.recorded.pauses) >= 3)
        assert rig.consumer.acknowledged == []
        assert rig.publisher.published == []
        proxy.open = True
        eventually(lambda: rig.consumer.acknowledged == [message, never, malformed])
    assert effects(url) == {order(message): 1}
    assert len(rig.publisher.to("dlx")) == 2


def test_what_was_committed_before_an_outage_is_not_taken_for_duplicates(url: str) -> None:
    sent = [cancelled(), cancelled(), cancelled(), cancelled()]
    calls = list[int]()

    def handler(messages: Sequence[Incoming], transaction: UnitOfWork) -> Sequence[Outcome]:
        calls.append(len(messages))
        if len(calls) == 1:
            raise ZeroDivisionError  # so that the batch is halved
        if len(calls) == 3:
            raise DatabaseUnavailable("gone")
        return handle(messages, transaction)

    with ConsumerRig(url, *sent, handler=handler) as rig:
        eventually(lambda: rig.consumer.acknowledged)
        assert calls == [4, 2, 2, 2]
        assert (rig.total.done, rig.total.duplicates) == (4, 0)
    assert effects(url) == {order(message): 1 for message in sent}


def test_a_batch_full_of_failing_messages_reports_progress_and_can_be_stopped(url: str) -> None:
    progress_seen = list[float]()

    def handler(messages: Sequence[Incoming], transaction: UnitOfWork) -> Sequence[Outcome]:
        progress_seen.append(rig.loop.last_progress)
        rig.loop.last_progress = float("-inf")
        if len(progress_seen) == 9:
            rig.loop.give_up()
        raise ZeroDivisionError

    with ConsumerRig(url, *[cancelled() for _ in range(8)], handler=handler) as rig:
        rig.join()
    assert len(progress_seen) == 9, "there would be fifteen without give_up"
    assert float("-inf") not in progress_seen
    assert rig.consumer.acknowledged == []


def test_a_commit_without_a_response_happened_once(url: str, proxy: Proxy) -> None:
    messages = [cancelled() for _ in range(20)]

    def handler(batch: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
        if not rig.recorded.pauses:
            proxy.swallow = COMMITTED
        return handle(batch, transaction)

    with ConsumerRig(proxy.url, *messages, handler=handler) as rig:
        eventually(lambda: rig.consumer.acknowledged == messages)
    assert isinstance(rig.recorded.pauses[0], DatabaseUnavailable)
    assert effects(url) == {order(message): 1 for message in messages}
    assert rig.total.duplicates == 20, "the second attempt finds them all in the inbox"
    assert rig.publisher.published == [], "this process does not know of the events"
    assert one(url, "select count(*) from outbox") == 20, "but the table does, and the relay will send them"


def test_a_backend_killed_while_it_commits_leaves_all_or_nothing(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("""
            create function linger() returns trigger language plpgsql as $$
            begin perform pg_advisory_xact_lock_shared(7); return null; end $$;
            create constraint trigger slow_commit after insert on effects deferrable initially deferred
            for each row execute function linger()""")
        connection.execute("select pg_advisory_lock(7)")
        messages = [cancelled() for _ in range(10)]
        with ConsumerRig(url, *messages) as rig:
            wait_for_a_lock(url, application_name="rig")
            terminate(url)
            eventually(lambda: rig.recorded.pauses)
            connection.execute("select pg_advisory_unlock(7)")
            eventually(lambda: rig.consumer.acknowledged == messages)
    assert effects(url) == {order(message): 1 for message in messages}
    assert len(rig.publisher.published) == 10


def test_aborted_transactions_are_done_again_without_a_pause_unless_it_never_ends(url: str) -> None:
    attempts: list[int] = []

    def unlucky(messages: Sequence[Incoming], transaction: Transaction) -> Sequence[Outcome]:
        attempts.append(len(messages))
        if len(attempts) <= 7:
            raise TransactionAborted("row count")
        return handle(messages, transaction)

    message = cancelled()
    with ConsumerRig(url, message, handler=unlucky) as rig:
        eventually(lambda: rig.consumer.acknowledged == [message])
    assert [type(error) for error in rig.recorded.pauses] == [TransactionAborted] * 2
    assert effects(url) == {order(message): 1}


@pytest.mark.parametrize("trouble", ["database", "dead letters", "confirms"])
def test_giving_up_ends_a_consumer_that_cannot_finish_within_a_moment(url: str, proxy: Proxy, trouble: str) -> None:
    proxy.open = trouble != "database"
    with ConsumerRig(proxy.url, confirm_timeout_seconds=60) as rig:
        rig.publisher.holding = True
        rig.consumer.put(cancelled("good" if trouble == "confirms" else "never"))
        if trouble == "database":
            eventually(lambda: rig.recorded.pauses)
        else:
            eventually(lambda: rig.publisher.published)
        rig.loop.stop()
        started = time.monotonic()
        rig.loop.give_up()
        rig.join(5)
        assert time.monotonic() - started < 2
    if trouble != "confirms":
        assert rig.consumer.acknowledged == []
