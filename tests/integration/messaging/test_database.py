# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, tzinfo
from threading import Barrier, Thread
from typing import Any
from uuid import UUID, uuid4

import pytest

from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.errors import BadData, DatabaseUnavailable, TransactionAborted
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from tests.rigs.consumer import prepare
from tests.rigs.database_locks import wait_for_a_lock

pytestmark = pytest.mark.integration


@pytest.fixture
def db(database: str) -> Iterator[Database]:
    prepare(database)
    db = Database(database)
    with db.transaction() as transaction:
        transaction.execute(
            "create table things (id int primary key, name text not null, small smallint, unique (name))"
        )
    yield db
    db.close()


def run(db: Database, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with db.transaction() as transaction:
        return transaction.execute(statement, parameters)


def test_a_block_that_raises_leaves_nothing(db: Database) -> None:
    def fail() -> None:
        with db.transaction() as transaction:
            transaction.execute("insert into things values (1, 'a')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert run(db, "select * from things") == []


@pytest.mark.parametrize(("by_key", "reads_all"), [(True, False), (False, True)])
def test_by_key_no_plan_reads_a_whole_table_however_small_it_is(
    db: Database, database: str, by_key: bool, reads_all: bool
) -> None:
    with closing(Database(database, by_key=by_key)) as chosen:
        run(chosen, "set plan_cache_mode = force_generic_plan")  # the plan that a prepared statement keeps
        run(
            chosen,
            "prepare find (int[], text[]) as select * from things where (id, name) in (select * from unnest($1, $2))",
        )
        plan = "\n".join(line for (line,) in run(chosen, "explain execute find ('{1,2}', '{a,b}')"))
    assert ("Seq Scan on things" in plan) == reads_all, plan


def test_statements_are_counted_with_begin_and_commit(db: Database) -> None:
    with db.transaction() as transaction:
        transaction.execute("select 1")
        transaction.execute("select 1")
    assert transaction.statements == 4


@pytest.mark.parametrize("hours", [-3, 3])
def test_the_time_of_a_transaction_is_the_servers_whatever_our_clock_says(
    database: str, hours: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr("orderflow.messaging.postgres.database.datetime", Wrong)
    wrong = Database(database)
    with wrong.transaction() as transaction:
        ((server,),) = transaction.execute("select clock_timestamp()")
    wrong.close()
    assert abs(server - transaction.now) < timedelta(seconds=2)
    assert "database.clock_differs" in caplog.messages


def test_a_clock_that_is_right_is_left_alone(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    assert run(db, "select 1") == [(1,)]
    assert db._clock_offset == timedelta()
    assert "database.clock_differs" not in caplog.messages


@pytest.mark.parametrize(
    "statement",
    [
        "insert into things values (1, null)",
        "insert into things values (1, 'a'), (1, 'b')",
        "insert into things values (1, 'a', 70000)",
        "insert into things values (1, e'\\xff')",
        "select 1 / 0",
        "select 'x'::int",
        "select '\"\\u0000\"'::jsonb ->> 0",
        "insert into things select 1, string_agg(md5(n::text), '') from generate_series(1, 500) n",
    ],
)
def test_a_value_that_the_database_refuses_is_bad_data(db: Database, statement: str) -> None:
    with pytest.raises(BadData):
        run(db, statement)
    assert run(db, "select 1") == [(1,)]


@pytest.mark.parametrize("text", ["nul \0 nul", "a" * 10])
def test_a_nul_in_a_text_is_bad_data_also_in_an_array(db: Database, text: str) -> None:
    statement = "insert into things select 1, name from unnest(%(names)s::text[]) as name"
    if "\0" in text:
        with pytest.raises(BadData):
            run(db, statement, names=[text])
    else:
        run(db, statement, names=[text])


@pytest.mark.parametrize(
    "statement", ["select nothing from nowhere", "selct", "select 1 / 0 from things where false;;x"]
)
def test_a_wrong_statement_is_not_bad_data_and_waits_for_a_fixed_program(db: Database, statement: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        run(db, statement)


def test_a_statement_that_takes_too_long_is_ended(database: str) -> None:
    db = Database(database, statement_timeout_seconds=0.5)  # enough for ``select 1`` on a busy machine
    with pytest.raises(DatabaseUnavailable, match="57014"):
        run(db, "select pg_sleep(60)")
    assert run(db, "select 1") == [(1,)]
    db.close()


def test_where_there_is_no_server_the_database_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable), Database("postgresql://nobody@127.0.0.1:1/x").transaction():
        pass


def test_a_deadlock_aborts_one_of_the_two(database: str, db: Database) -> None:
    run(db, "insert into things values (1, 'a'), (2, 'b')")
    both = Barrier(2)

    def lock(first: int, second: int) -> type[Exception] | None:
        mine = Database(database)
        try:
            with mine.transaction() as transaction:
                transaction.execute("select from things where id = %(id)s for update", {"id": first})
                both.wait(10)
                transaction.execute("select from things where id = %(id)s for update", {"id": second})
        except TransactionAborted:
            return TransactionAborted
        finally:
            mine.close()
        return None

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lock, (1, 2), (2, 1))) == {None, TransactionAborted}


LISTS: list[tuple[str, list[Any]]] = [
    ("uuid", [uuid4(), UUID(int=0)]),
    ("text", ["a", "", "NULL", 'quo"te', "back\\slash", "{brace}", "ünï", "new\nline"]),
    ("bytea", [b"", b"\0\xff", b"x" * 100_000]),
    ("bigint", [0, -(2**63), 2**63 - 1]),
    ("int", [1, 2]),
    ("uuid", []),
    ("text", ["a", None]),
    ("timestamptz", [datetime(2026, 1, 1, tzinfo=UTC), None]),
    ("boolean", [True, False]),
    ("float8", [1.5, 2.0]),
    ("jsonb", ['{"a": [1, "\\""]}', "null"]),
    ("timestamptz", ["2026-01-01T00:00:00Z"]),
]


@pytest.mark.parametrize(("kind", "values"), LISTS)
def test_a_list_arrives_as_it_was_sent(db: Database, kind: str, values: list[Any]) -> None:
    unnested = f"select v::text from unnest(%(values)s::{kind}[]) with ordinality as t (v, n) order by n"
    alone = [run(db, f"select (%(value)s::{kind})::text", value=value)[0] for value in values]
    assert run(db, unnested, values=values) == alone


def test_lists_of_every_kind_may_follow_each_other_in_one_statement(db: Database) -> None:
    for names in (["a"], ["a", None], [], ["b"], [None]):
        assert run(db, "select %(names)s::text[]", names=names) == [(names,)]


def test_a_claim_takes_ids_in_order_so_that_two_claims_do_not_deadlock(database: str, db: Database) -> None:
    inbox, low, high = Inbox("work"), UUID(int=1), UUID(int=2)
    known: list[set[UUID]] = []

    def claim() -> None:
        mine = Database(database)
        with mine.transaction() as transaction:
            known.append(inbox.claim(SqlUnitOfWork(transaction), [high, low]))
        mine.close()

    with db.transaction() as transaction:
        assert inbox.claim(SqlUnitOfWork(transaction), [low]) == set()
        concurrent = Thread(target=claim)
        concurrent.start()
        wait_for_a_lock(database)
        assert inbox.claim(SqlUnitOfWork(transaction), [high]) == set()
    concurrent.join(10)
    assert known == [{low, high}]


def test_a_claim_waits_for_a_concurrent_transaction_and_sees_its_result(database: str, db: Database) -> None:
    inbox, ids = Inbox("work"), [uuid4() for _ in range(3)]
    known: list[set[UUID]] = []

    def claim() -> None:
        mine = Database(database)
        with mine.transaction() as transaction:
            known.append(inbox.claim(SqlUnitOfWork(transaction), ids))
        mine.close()

    with db.transaction() as transaction:
        assert inbox.claim(SqlUnitOfWork(transaction), ids[:2]) == set()
        inbox.forget(SqlUnitOfWork(transaction), ids[:1])
        concurrent = Thread(target=claim)
        concurrent.start()
        wait_for_a_lock(database)
    concurrent.join(10)
    assert known == [{ids[1]}]


def test_the_same_message_in_two_queues_is_handled_in_both(db: Database) -> None:
    ids = [uuid4()]
    with db.transaction() as transaction:
        assert Inbox("one").claim(SqlUnitOfWork(transaction), ids) == set()
        assert Inbox("two").claim(SqlUnitOfWork(transaction), ids) == set()
        assert Inbox("two").claim(SqlUnitOfWork(transaction), ids) == set(ids)
