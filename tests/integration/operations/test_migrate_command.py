# SPDX-License-Identifier: Apache-2.0
"""``orderflow migrate`` on real databases: what it prints, and its exit codes."""

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from orderflow.__main__ import main
from orderflow.database_schema import database_schema
from orderflow.messaging.postgres.migrations import Component
from orderflow.services import SERVICES
from tests.rigs.consumer import query
from tests.rigs.schema_0_1_0 import create_schema_0_1_0

pytestmark = pytest.mark.integration

NEWER = "insert into orderflow_migrations (component, number, name, checksum) values ('orders', 99, 'next', 'x')"


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def command(url: str, *words: str) -> int:
    return main(["migrate", *words], {"ORDERFLOW_DATABASE_URL": url})


def listed(word: str, *components: Component) -> str:
    """A line for every migration of orders in these components."""
    return "".join(f"orders: {word} {migration}\n" for component in components for migration in component.migrations)


def test_one_service_is_checked_migrated_and_up_to_date(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = ("--service", "orders")
    assert command(database, *one, "--check") == 1
    assert capsys.readouterr().out == listed("pending", *database_schema("orders"))
    assert query(database, "select 1 from pg_tables where schemaname = 'public'") == []
    assert command(database, *one) == 0
    assert capsys.readouterr().out == listed("applied", *database_schema("orders"))
    for words in (one, (*one, "--check")):
        assert command(database, *words) == 0
        assert capsys.readouterr().out == "orders: up to date\n"


def test_a_database_of_version_0_1_0_is_up_to_date_until_something_was_added(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    create_schema_0_1_0(database, "orders")
    added = [replace(component, migrations=component.migrations[1:]) for component in database_schema("orders")]
    assert command(database, "--service", "orders") == command(database, "--service", "orders", "--check") == 0
    assert capsys.readouterr().out == listed("applied", *added) + "orders: up to date\n"


@pytest.fixture
def prefix(database_url: str, database: str) -> Iterator[str]:
    """The beginning of the names of one database for each service."""
    name = urlsplit(database).path[1:]
    for service in SERVICES:
        execute(database_url, f'create database "{name}_{service.name}"')
    yield name
    for service in SERVICES:
        execute(database_url, f'drop database "{name}_{service.name}" with (force)')


def test_all_services_are_migrated_when_the_url_has_a_place_for_their_names(
    database_url: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = urlunsplit(urlsplit(database_url)._replace(path=f"/{prefix}_{{service}}"))
    assert command(url, "--service", "payments") == 0
    assert command(url, "--check") == 1
    assert "payments: up to date\n" in capsys.readouterr().out
    execute(url.replace("{service}", "payments"), NEWER.replace("'orders'", "'payments'"))
    assert command(url) == 2  # the others are migrated all the same
    said = capsys.readouterr()
    known = len(database_schema("payments")[1].migrations)
    expected = f"payments: the database has payments up to 0099 (next), this version has up to {known:04}\n"
    assert expected in said.err
    assert {line.partition(":")[0] for line in said.out.splitlines()} == {"orders", "inventory", "notifications"}
    execute(url.replace("{service}", "payments"), "delete from orderflow_migrations where number = 99")
    assert command(url, "--check") == 0


def test_without_a_service_it_says_what_to_give(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(database) == 2
    assert capsys.readouterr().err == (
        "give --service, or put {service} into ORDERFLOW_DATABASE_URL in place of each database's name\n"
    )
    assert main(["migrate"], {}) == 2
    assert capsys.readouterr().err.startswith("ORDERFLOW_DATABASE_URL is missing")


def test_a_database_that_does_not_fit_or_is_not_there_is_named(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(database, "--service", "orders") == 0
    execute(database, "update orderflow_migrations set checksum = 'edited' where component = 'orders'")
    capsys.readouterr()
    assert command(database, "--service", "orders") == 2
    assert capsys.readouterr().err.startswith("orders: migration orders 0001 (orders) was applied with checksum edited")
    assert command("postgresql://nobody@127.0.0.1:1/x", "--service", "orders", "--check") == 2
    assert "orders: connection" in capsys.readouterr().err
