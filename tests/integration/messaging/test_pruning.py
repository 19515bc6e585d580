# SPDX-License-Identifier: Apache-2.0
"""Old rows go, a bounded number of pages at a time, in one process at a time, whatever the size of the table."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from uuid import UUID, uuid4

import psycopg
import pytest

from orderflow.messaging import pruning
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.consume import inbox
from orderflow.messaging.consume.inbox import PrunedInbox
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.instrumentation import MessagingInstrumentation
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.pruning import STATEMENT_SECONDS, Pruner
from orderflow.messaging.service import Prunable, PrunedPage, Transaction
from orderflow.messaging.uuid7 import first_uuid7
from orderflow.services.orders.idempotency_pruning import PrunedIdempotencyKeys
from tests.rigs.consumer import one, query
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration

INBOX = PrunedInbox("work", retention_days=30)
KEYS = PrunedIdempotencyKeys(hours=72)
# One message each second, the newest handled now; the ids are of version 7, as uuid7() makes them.
FILL_INBOX = """
insert into inbox select 'work', (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7'
    || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid, at
from generate_series(1, {rows}) as n, lateral (select now() - ({rows} - n) * interval '{step}') as times (at)
"""
FILL_KEYS = """
insert into idempotency select 'client', n::text, '', gen_random_uuid(), '', now() - ({rows} - n) * interval '{step}'
from generate_series(1, {rows}) as n
"""


@pytest.fixture
def url(database: str) -> str:
    """A database with the tables of orders."""
    prepare_service(database, "orders")
    return database


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    """A connection like the pruner's."""
    opened = Database(url, statement_timeout_seconds=STATEMENT_SECONDS)
    yield opened
    opened.close()


class RecordedPruning(MessagingInstrumentation):
    """Records what a pruner reports."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.ages: list[float] = []
        self.failures: list[str] = []

    def pruned(self, name: str, rows: int, finished_seconds: float) -> None:
        _ = name
        self.rows.append(rows)
        self.ages.append(finished_seconds)

    def prune_failed(self, name: str) -> None:
        self.failures.append(name)


def fill(url: str, statement: str, *, rows: int, step: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.format(rows=rows, step=step).encode())


def handled(url: str, message_id: UUID, *, days_ago: float) -> None:
    with psycopg.connect(url) as connection:
        at = datetime.now(UTC) - timedelta(days=days_ago)
        connection.execute("insert into inbox values ('work', %s, %s)", [message_id, at])


def an_id(*, days_ago: float) -> UUID:
    return UUID(int=first_uuid7(datetime.now(UTC) - timedelta(days=days_ago)).int | uuid4().int % 2**60)


def rounds(pruner: Pruner) -> int:
    """Prune until the round is complete; the number of calls. On a busy machine a page may time out: it is repeated."""
    for calls in count(1):
        with suppress(DatabaseUnavailable):
            if not pruner.prune():
                return calls
    raise AssertionError


def next_round(url: str, *, from_the_beginning: bool) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("update pruning set due_at = now()")
        if from_the_beginning:
            connection.execute("update pruning set position = ''")


def test_the_inbox_forgets_only_what_was_handled_before_the_retention(url: str, db: Database) -> None:
    kept = {
        "published and handled lately": (an_id(days_ago=29), 29.0),
        "published long ago, replayed lately": (an_id(days_ago=90), 1.0),
        "foreign id, handled lately": (UUID("f81d4fae-7dec-41d0-a765-00a0c91e6bf6"), 1.0),
    }
    forgotten = {
        "published and handled long ago": (an_id(days_ago=31), 31.0),
        "foreign id that sorts high": (UUID("f81d4fae-7dec-41d0-a765-00a0c91e6bf7"), 31.0),
        "foreign id that sorts low": (UUID("00001fae-7dec-41d0-a765-00a0c91e6bf7"), 31.0),
    }
    for message_id, days_ago in (kept | forgotten).values():
        handled(url, message_id, days_ago=days_ago)
    rounds(Pruner(db, [INBOX], instrumentation=RecordedPruning()))
    assert {row[0] for row in query(url, "select message_id from inbox")} == {row[0] for row in kept.values()}


def test_what_came_late_behind_the_position_goes_with_the_next_round_from_the_beginning(url: str, db: Database) -> None:
    pruner = Pruner(db, [INBOX], instrumentation=RecordedPruning())
    rounds(pruner)
    handled(url, an_id(days_ago=90), days_ago=31)
    next_round(url, from_the_beginning=False)
    rounds(pruner)
    assert one(url, "select count(*) from inbox") == 1
    with psycopg.connect(url) as connection:
        connection.execute("update pruning set due_at = now(), swept_at = now() - interval '25 hours'")
    rounds(pruner)  # completes the round, and decides that the next one begins at the beginning
    next_round(url, from_the_beginning=False)
    rounds(pruner)
    assert one(url, "select count(*) from inbox") == 0


def test_a_longer_retention_than_before_visits_nothing_until_it_has_passed(url: str, db: Database) -> None:
    rounds(Pruner(db, [INBOX], instrumentation=RecordedPruning()))
    handled(url, an_id(days_ago=35), days_ago=35)
    next_round(url, from_the_beginning=False)
    assert rounds(Pruner(db, [PrunedInbox("work", retention_days=60)], instrumentation=RecordedPruning())) == 1
    assert one(url, "select count(*) from inbox") == 1


def test_idempotency_keys_go_by_their_age_also_when_many_have_the_same_time(url: str, db: Database) -> None:
    fill(url, FILL_KEYS, rows=5000, step="0 s")
    fill(url, FILL_KEYS.replace("n::text", "'young ' || n"), rows=10, step="0 s")
    with psycopg.connect(url) as connection:
        connection.execute(
            "update idempotency set created_at = now() - interval '73 hours' where key not like 'young%'"
        )
    recorded = RecordedPruning()
    rounds(Pruner(db, [KEYS], instrumentation=recorded))
    assert recorded.rows == [2000, 2000, 1000]
    assert one(url, "select count(*) from idempotency where key like 'young%'") == 10


def test_only_one_process_prunes_at_a_time_and_the_others_do_not_repeat_the_round(url: str, db: Database) -> None:
    handled(url, an_id(days_ago=31), days_ago=31)
    first, recorded = Pruner(db, [INBOX], instrumentation=RecordedPruning()), RecordedPruning()
    other_database = Database(url)
    other = Pruner(other_database, [INBOX], instrumentation=recorded)
    with psycopg.connect(url) as busy:
        busy.execute("insert into pruning (name) values ('inbox:work')")
        busy.commit()
        busy.execute("select from pruning for update")
        assert not other.prune()
        assert one(url, "select count(*) from inbox") == 1
    rounds(first)
    assert one(url, "select count(*) from inbox") == 0
    handled(url, an_id(days_ago=31), days_ago=31)
    with psycopg.connect(url) as connection:
        connection.execute("update pruning set position = ''")
    assert not other.prune()
    assert (recorded.rows, one(url, "select count(*) from inbox")) == ([0], 1)
    assert 0 <= recorded.ages[0] < 60
    other_database.close()


class LimitRecorder:
    """Wraps rows, and records how many rows each page may visit."""

    def __init__(self, prunable: Prunable) -> None:
        self.name = prunable.name
        self.limits: list[int] = []
        self._prunable = prunable

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        self.limits.append(limit)
        return self._prunable.prune_page(transaction, position, limit)


def test_a_failed_page_is_tried_again_smaller_and_later_and_does_not_stop_the_others(url: str) -> None:
    handled(url, an_id(days_ago=31), days_ago=31)
    fill(url, FILL_KEYS, rows=2500, step="1 h")
    recorded, rows = RecordedPruning(), LimitRecorder(INBOX)
    waiting = Database(url, statement_timeout_seconds=0.05)
    pruner = Pruner(waiting, [rows, KEYS], instrumentation=recorded)
    with psycopg.connect(url) as busy:
        busy.execute("select from inbox for update")
        assert pruner.prune()  # no old row is among the first page of this inbox
        assert one(url, "select count(*) from idempotency") == 500
        for _ in range(9):
            with pytest.raises(DatabaseUnavailable):
                pruner.prune()
    assert one(url, "select count(*) from idempotency") == 72
    assert rows.limits == [2000, 2000, 1000, 500, 250, 125, 62, 50, 50, 50]
    assert recorded.failures == ["inbox:work"] * 9
    waiting.close()


class FailingRows:
    """Rows that cannot be pruned; stops the loop at the sixth attempt."""

    name = "failing"

    def __init__(self, clock: ManualClock) -> None:
        self.begun: list[float] = []
        self.loop: Periodic
        self._clock = clock

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        self.begun.append(self._clock.monotonic())
        if len(self.begun) == 6:
            self.loop.stop()
        raise DatabaseUnavailable("away")


def test_the_pause_after_failed_pages_grows(db: Database) -> None:
    clock = ManualClock()
    failing = FailingRows(clock)
    failing.loop = Pruner(db, [failing], instrumentation=RecordedPruning()).loop("prune", clock=clock)
    failing.loop.run()
    pauses = [later - earlier for earlier, later in pairwise(failing.begun)]
    assert all(2**n / 10 <= pause <= 2**n for n, pause in enumerate(pauses))


def buffers(url: str, parameters: dict[str, object]) -> int:
    """Pages of tables and indexes that one statement touches, in a transaction that is rolled back."""
    with psycopg.connect(url) as connection:
        connection.execute("insert into pruning (name) values ('inbox:work')")
        connection.execute(pruning._LOCK.encode(), {"name": "inbox:work", "sweep": 1})
        statement = f"explain (analyze, buffers, format json) {inbox._PRUNE_PAGE}"
        ((plan,),) = connection.execute(statement.encode(), parameters).fetchall()
        connection.rollback()
    top = (plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_page_touches_as_many_buffers_in_a_large_inbox_as_in_a_small_one(url: str, *, analyzed: bool) -> None:
    now = datetime.now(UTC)
    parameters: dict[str, object] = {
        "queue": "work", "after": UUID(int=0), "bound": first_uuid7(now), "before": now, "limit": 500,
    }  # fmt: skip
    touched = []
    for rows in (5_000, 200_000):
        with psycopg.connect(url) as connection:
            connection.execute("truncate inbox")
        fill(url, FILL_INBOX, rows=rows, step="1 s")
        if analyzed:
            with psycopg.connect(url) as connection:
                connection.execute("analyze inbox")
        touched.append(buffers(url, parameters))
    assert touched[1] < 1.2 * touched[0] + 20
    assert touched[1] < 4 * 500


@pytest.mark.parametrize("rows", [100_000, pytest.param(2_000_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("prunable", "statement"), [(INBOX, FILL_INBOX), (KEYS, FILL_KEYS)])
def test_every_statement_is_bounded_while_half_of_a_large_table_goes(
    url: str, db: Database, prunable: Prunable, statement: str, rows: int
) -> None:
    retention = 31 * 86400 if prunable is INBOX else 72 * 3600
    fill(url, statement, rows=rows, step=f"{2 * retention / rows} s")
    recorded = RecordedPruning()
    rounds(Pruner(db, [prunable], instrumentation=recorded))
    assert max(recorded.rows) <= 2000
    assert sum(recorded.rows) == pytest.approx(rows / 2, rel=0.05)
    assert one(url, f"select count(*) from {prunable.name.partition(':')[0]}") == rows - sum(recorded.rows)
    # A round with little to do costs little, though the deleted rows are still in the index.
    next_round(url, from_the_beginning=False)
    assert rounds(Pruner(db, [prunable], instrumentation=recorded)) <= 2
