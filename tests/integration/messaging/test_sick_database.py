# SPDX-License-Identifier: Apache-2.0
"""A server that is read-only, that does not respond, or that may lose commits."""

import threading
from urllib.parse import urlsplit

import psycopg
import pytest

from local.eventually import eventually
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.connection_watchdog import ConnectionWatchdog
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.durability import LosesCommits, require_durable
from orderflow.messaging.postgres.migrations import Component, Migration, migrate
from orderflow.messaging.postgres.read_pool import ReadPool
from orderflow.messaging.service import Transaction
from tests.rigs.consumer import one
from tests.rigs.tcp_proxy import Proxy

pytestmark = pytest.mark.integration

INSERT = "insert into effects select gen_random_uuid(), 1"
SHORT = 0.2


def effects(url: str) -> int:
    return int(one(url, "select count(*) from effects"))


def write(database: Database) -> None:
    with database.transaction() as transaction:
        transaction.execute(INSERT)


def make_read_only(url: str) -> None:
    """New sessions of this database are read-only, as on a standby."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = urlsplit(url).path[1:]
        connection.execute(f'alter database "{name}" set default_transaction_read_only = on'.encode())


def test_a_connection_whose_server_became_read_only_is_not_used_again(url: str) -> None:
    database = Database(url)
    database.execute("set default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="25006"):
        write(database)
    write(database)
    assert database.connections == 2
    database.close()


def test_a_read_only_server_is_refused_when_connecting_unless_the_url_accepts_it(url: str) -> None:
    make_read_only(url)
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        Database(url).execute("select 1")
    assert Database(url, read_only=True).execute("select 1") == [(1,)]
    assert Database(f"{url}?target_session_attrs=any").execute("select 1") == [(1,)]


def test_of_several_servers_in_the_url_the_writable_one_is_used(url: str, proxy: Proxy) -> None:
    proxy.open = False
    here, there = urlsplit(proxy.url), urlsplit(url)
    credentials = there.netloc.rpartition("@")[0]
    both = f"postgresql://{credentials}@{here.hostname}:{here.port},{there.hostname}:{there.port}{there.path}"
    write(Database(f"{both}?target_session_attrs=read-write"))
    assert effects(url) == 1


def test_a_read_pool_works_with_the_url_that_demands_a_writable_server(url: str) -> None:
    pool = ReadPool(f"{url}?target_session_attrs=read-write", application_name="reads", timeout_seconds=5)
    assert pool.submit(lambda transaction: transaction.execute("select 1")).result(10) == [(1,)]
    pool.close()


def test_a_commit_without_a_response_is_cut_off_and_nothing_is_stored(
    url: str, proxy: Proxy, watchdog: ConnectionWatchdog
) -> None:
    database = Database(proxy.url, statement_timeout_seconds=SHORT, response_margin_seconds=SHORT)
    watchdog.watch(database)
    proxy.swallows_commits = True
    with pytest.raises(DatabaseUnavailable):
        write(database)
    proxy.swallows_commits = False
    write(database)
    assert proxy.swallowed_commits == 1
    assert effects(url) == 1


def test_a_statement_without_a_response_is_cut_off(url: str, proxy: Proxy, watchdog: ConnectionWatchdog) -> None:
    database = Database(proxy.url, statement_timeout_seconds=SHORT, response_margin_seconds=SHORT)
    watchdog.watch(database)
    write(database)
    proxy.responding.clear()
    with pytest.raises(DatabaseUnavailable):
        database.execute("select 1")
    proxy.responding.set()
    write(database)
    assert effects(url) == 2


def test_a_migration_may_take_longer(url: str, watchdog: ConnectionWatchdog) -> None:
    database = Database(url, statement_timeout_seconds=SHORT, response_margin_seconds=SHORT)
    watchdog.watch(database)
    migrate(database, [Component("slow", [Migration("slow", 1, "slow", "select pg_sleep(1)")])])


def test_a_query_of_a_pool_without_a_response_is_cut_off_and_the_pool_goes_on(
    proxy: Proxy, watchdog: ConnectionWatchdog
) -> None:
    pool = ReadPool(proxy.url, application_name="reads", timeout_seconds=SHORT, size=1)
    watchdog.watch(pool)
    entered, go_on = threading.Event(), threading.Event()

    def query_when_told(transaction: Transaction) -> None:
        entered.set()
        assert go_on.wait(10)
        transaction.execute("select 1")

    query = pool.submit(query_when_told)
    assert entered.wait(10)
    proxy.responding.clear()
    go_on.set()
    assert isinstance(query.exception(20), DatabaseUnavailable)
    proxy.responding.set()
    eventually(lambda: pool.submit(lambda transaction: transaction.execute("select 1")).exception(10) is None)
    pool.close()


def test_a_session_that_may_lose_commits_is_recognised(url: str) -> None:
    database = Database(url)
    with database.transaction() as transaction:
        require_durable(transaction.execute)
    database.execute("set synchronous_commit = off")
    with pytest.raises(LosesCommits, match="synchronous_commit=off"), database.transaction() as transaction:
        require_durable(transaction.execute)
    database.close()
