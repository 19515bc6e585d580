# SPDX-License-Identifier: Apache-2.0
"""Migrations on a real database: each is applied once, completely or not at all, and only where it fits."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest

from orderflow.database_schema import database_schema
from orderflow.messaging.errors import BadData, DatabaseUnavailable, SchemaMismatch
from orderflow.messaging.postgres import migrations
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import Component, migrate, pending, require_current
from orderflow.messaging.service import Service
from orderflow.services import SERVICES
from tests.rigs.consumer import query
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.schema_0_1_0 import create_schema_0_1_0

pytestmark = pytest.mark.integration

FIRST, SECOND = "create table one (id int);", "alter table one add column two int;"
RECORDED = "select component, number, name from orderflow_migrations order by component, number"
SCHEMA = """
select 'column', table_name, column_name, data_type, is_nullable, column_default from information_schema.columns
where table_schema = 'public' and table_name not in ('migrations', 'orderflow_migrations')
union all select 'index', tablename, indexname, indexdef, '', '' from pg_indexes
where schemaname = 'public' and tablename not in ('migrations', 'orderflow_migrations')
union all select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '' from pg_constraint
where connamespace = 'public'::regnamespace and conrelid::regclass::text not in ('migrations', 'orderflow_migrations')
union all select 'options', relname, reloptions::text, '', '', '' from pg_class
where relnamespace = 'public'::regnamespace and relkind = 'r' and relname not in ('migrations', 'orderflow_migrations')
order by 1, 2, 3
"""


@pytest.fixture
def db(database: str) -> Iterator[Database]:
    opened = Database(database)
    yield opened
    opened.close()


def component(folder: Path, *scripts: str, name: str = "demo") -> Component:
    """A component with these scripts as its files."""
    place = folder / name
    place.mkdir(exist_ok=True)
    for file in place.iterdir():
        file.unlink()
    for number, script in enumerate(scripts, 1):
        (place / f"{number:04}_step_{number}.sql").write_text(script)
    return Component.read(name, place)


def labels(found: list[migrations.Migration]) -> list[str]:
    return [str(migration) for migration in found]


def tables(url: str) -> set[str]:
    return {name for (name,) in query(url, "select tablename from pg_tables where schemaname = 'public'")}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_fresh_database_gets_everything_once(service: Service, database: str, db: Database) -> None:
    schema = database_schema(service.name)
    assert labels(pending(db, schema)) == labels(migrate(db, schema)) != []
    assert migrate(db, schema) == pending(db, schema) == []
    require_current(db, schema)
    assert query(database, RECORDED) == sorted(
        (part.name, migration.number, migration.name) for part in schema for migration in part.migrations
    )


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_database_of_version_0_1_0_is_recognised_and_has_the_same_schema_as_a_fresh_one(
    service: Service, database: str, db: Database
) -> None:
    name = service.name
    schema = database_schema(name)
    create_schema_0_1_0(database, name)
    before = tables(database)
    assert [migration.number for migration in pending(db, schema)] == [
        migration.number for part in schema for migration in part.migrations[1:]
    ]
    assert tables(database) == before  # a check writes nothing
    migrate(db, schema)
    assert pending(db, schema) == []
    recorded = {(part, number) for part, number, _ in query(database, RECORDED)}
    assert query(database, "select distinct applied_at from orderflow_migrations where number = 1") == query(
        database, "select distinct applied_at from migrations"
    )
    assert {("messaging", 1), (name, 1)} <= recorded
    forward = query(database, SCHEMA)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop schema public cascade; create schema public")
    migrate(db, schema)
    assert query(database, SCHEMA) == forward


def test_version_0_1_0_can_still_start_on_an_upgraded_database(database: str, db: Database) -> None:
    create_schema_0_1_0(database, "orders")
    migrate(db, database_schema("orders"))
    left = {name for (name,) in query(database, "select name from migrations")}
    assert left == {"orderflow.messaging", "orderflow.services.orders"}  # it applies what is not in this table


def test_services_of_version_0_1_0_that_shared_a_database_are_each_recognised(database: str, db: Database) -> None:
    create_schema_0_1_0(database, "orders", "payments")
    migrate(db, database_schema("orders"))
    added = list(database_schema("payments")[1].migrations[1:])
    assert pending(db, database_schema("payments")) == added
    assert migrate(db, database_schema("payments")) == added
    assert ("payments", 1, "charges") in query(database, RECORDED)


def test_a_foreign_table_named_migrations_is_left_alone(database: str, db: Database, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table migrations (id int primary key, migration text)")
    assert labels(migrate(db, [component(tmp_path, FIRST)])) == ["demo 0001 (step_1)"]


def test_a_second_migration_is_applied_to_a_database_that_has_the_first(db: Database, tmp_path: Path) -> None:
    migrate(db, [component(tmp_path, FIRST)])
    both = component(tmp_path, FIRST, SECOND)
    assert labels(pending(db, [both])) == ["demo 0002 (step_2)"]
    assert labels(migrate(db, [both])) == ["demo 0002 (step_2)"]
    assert migrate(db, [both]) == []


def test_migrations_run_once_however_many_processes_start_together(database: str, tmp_path: Path) -> None:
    parts = [component(tmp_path, FIRST, SECOND), component(tmp_path, "create table three ();", name="other")]
    start = Barrier(4)

    def start_up(_: int) -> list[str]:
        mine = Database(database)
        start.wait(10)
        applied = labels(migrate(mine, parts))
        mine.close()
        return applied

    with ThreadPoolExecutor(4) as pool:
        applied = [label for labels in pool.map(start_up, range(4)) for label in labels]
    assert sorted(applied) == ["demo 0001 (step_1)", "demo 0002 (step_2)", "other 0001 (step_1)"]


def test_a_database_that_is_newer_is_refused_and_left_alone(database: str, db: Database, tmp_path: Path) -> None:
    migrate(db, [component(tmp_path, FIRST, SECOND)])
    older = [component(tmp_path, FIRST), component(tmp_path, "create table three ();", name="other")]
    says = r"^the database has demo up to 0002 \(step_2\), this version has up to 0001$"
    for attempt in (migrate, pending, require_current):
        with pytest.raises(SchemaMismatch, match=says):
            attempt(db, older)
    assert tables(database) == {"one", "orderflow_migrations"}
    require_current(db, older[:1], accept_newer=True)


def test_an_applied_file_that_was_edited_is_refused(db: Database, tmp_path: Path) -> None:
    migrate(db, [component(tmp_path, FIRST)])
    edited = component(tmp_path, FIRST + "-- a comment", SECOND)
    says = r"^migration demo 0001 \(step_1\) was applied with checksum \w{12}, this version's file has \w{12}$"
    for attempt in (migrate, pending, require_current):
        with pytest.raises(SchemaMismatch, match=says):
            attempt(db, [edited])


def test_a_database_that_is_older_is_refused_where_nothing_may_be_applied(
    database: str, db: Database, tmp_path: Path
) -> None:
    parts = [component(tmp_path, FIRST, SECOND), component(tmp_path, "", name="other")]
    with pytest.raises(SchemaMismatch) as refused:
        require_current(db, parts)
    assert refused.value.problems == [
        "the database has demo up to 0000, this version needs 0002: run `orderflow migrate`",
        "the database has other up to 0000, this version needs 0001: run `orderflow migrate`",
    ]
    assert tables(database) == set()


def test_a_user_without_the_right_to_create_tables_starts_on_a_current_database(
    database: str, db: Database, tmp_path: Path
) -> None:
    parts, role = [component(tmp_path, FIRST)], f"reads_{uuid4().hex}"
    migrate(db, parts)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"create role {role}; grant select on all tables in schema public to {role}".encode())
    try:
        with db.transaction() as transaction:
            transaction.execute(f"set role {role}")
        assert migrate(db, parts) == []
        with pytest.raises(DatabaseUnavailable, match="42501"):
            migrate(db, [component(tmp_path, FIRST, SECOND)])
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"drop owned by {role}; drop role {role}".encode())


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("create table two (id int); selct;", DatabaseUnavailable),
        ("create table two (id int primary key); insert into two values (1), (1);", BadData),
        ("create table two (id int unique deferrable initially deferred); insert into two values (1), (1);", BadData),
    ],
)
def test_a_migration_that_fails_is_named_and_leaves_nothing(
    broken: str, error: type[Exception], database: str, db: Database, tmp_path: Path
) -> None:
    with pytest.raises(error, match=r"^migration demo 0002 \(step_2\): "):
        migrate(db, [component(tmp_path, FIRST, broken, SECOND)])
    assert tables(database) == {"one", "orderflow_migrations"}
    assert query(database, RECORDED) == [("demo", 1, "step_1")]
    assert labels(migrate(db, [component(tmp_path, FIRST, SECOND)])) == ["demo 0002 (step_2)"]


KILLED = """
import sys
from pathlib import Path
from orderflow.messaging.postgres import migrations
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.migrations import Component, migrate
migrations.LOCK_TIMEOUT = "60s"
migrate(Database(sys.argv[1]), [Component.read("demo", Path(sys.argv[2]))])
"""


def test_a_process_that_is_killed_in_the_middle_leaves_nothing(database: str, db: Database, tmp_path: Path) -> None:
    component(tmp_path, FIRST, "create table two (); select pg_advisory_xact_lock(7);")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(7)")
        process = subprocess.Popen([sys.executable, "-c", KILLED, database, str(tmp_path / "demo")])
        try:
            wait_for_a_lock(database)
        finally:
            process.kill()
        assert process.wait(10) == -signal.SIGKILL
    # Now the lock is free: the statement ends, and the server notices the kill.
    assert labels(migrate(db, [component(tmp_path, FIRST, SECOND)])) == ["demo 0002 (step_2)"]
    assert tables(database) == {"one", "orderflow_migrations"}


def test_a_migration_gives_up_on_a_lock_before_others_queue_behind_it(
    database: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(db, [component(tmp_path, FIRST)])
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "50ms")
    with psycopg.connect(database) as reader:
        reader.execute("select * from one")
        with pytest.raises(DatabaseUnavailable, match=r"0002 \(step_2\): 55P03"):
            migrate(db, [component(tmp_path, FIRST, SECOND)])


def test_a_migration_may_take_longer_than_a_statement_of_the_service(database: str, tmp_path: Path) -> None:
    short_timeout = Database(database, statement_timeout_seconds=0.2)
    migrate(short_timeout, [component(tmp_path, "select pg_sleep(0.3);")])
    short_timeout.close()
