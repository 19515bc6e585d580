# SPDX-License-Identifier: Apache-2.0
"""The queries of an API: limited in time and number, and successful again as soon as the database is available."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from local.eventually import eventually
from orderflow.messaging.errors import BadData, DatabaseUnavailable
from orderflow.messaging.postgres.read_pool import ReadPool
from orderflow.messaging.service import Transaction
from tests.rigs.tcp_proxy import Proxy

pytestmark = pytest.mark.integration


def one(transaction: Transaction) -> Any:
    return transaction.execute("select 1")[0][0]


def sleep(transaction: Transaction) -> Any:
    return transaction.execute("select pg_sleep(60)")


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[ReadPool]:
    pool = ReadPool(proxy.url, application_name="reads", timeout_seconds=1, size=2)
    yield pool
    pool.close()


def failing(pool: ReadPool) -> bool:
    return pool.failed_at > pool.committed_at


def backends(database: str, query: str = "") -> int:
    """The number of connections of the pool on the server whose latest query contains this text."""
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(
            "select from pg_stat_activity"
            " where application_name = 'reads' and datname = current_database() and position(%s in query) > 0",
            [query],
        ).rowcount


def test_a_slow_query_ends_in_time_and_the_pool_goes_on(pool: ReadPool) -> None:
    begun = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="57014"):
        pool.submit(sleep).result(10)
    assert time.monotonic() - begun < 3
    assert failing(pool)
    assert pool.submit(one).result(10) == 1
    assert not failing(pool)


def test_only_as_many_queries_run_at_a_time_as_the_pool_is_large(pool: ReadPool, database: str) -> None:
    running, most, lock = 0, 0, threading.Lock()
    two = threading.Barrier(2)

    def query(transaction: Transaction) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two.wait(10)  # so that two run at a time, on the slowest machine too
        transaction.execute("select pg_sleep(0.05)")
        with lock:
            running -= 1

    for done in [pool.submit(query) for _ in range(10)]:
        done.result(30)
    assert (most, backends(database)) == (2, 2)


def test_a_query_cannot_write(pool: ReadPool) -> None:
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        pool.submit(lambda transaction: transaction.execute("create table t ()")).result(10)


def test_bad_data_is_not_a_failure_of_the_database(pool: ReadPool) -> None:
    with pytest.raises(BadData):
        pool.submit(lambda transaction: transaction.execute("select 'x'::int")).result(10)
    assert not failing(pool)


def test_connections_that_were_lost_cost_no_query(proxy: Proxy) -> None:
    size = 4
    with closing(ReadPool(proxy.url, application_name="reads", timeout_seconds=10, size=size)) as pool:
        all_at_once = threading.Barrier(size)
        wait([pool.submit(lambda _: all_at_once.wait(10)) for _ in range(size)], 20)  # so that each has a connection
        proxy.cut()
        begun = time.monotonic()
        assert pool.submit(one).result(20) == 1  # alone, so it meets every one of them
        assert time.monotonic() - begun < 5
        assert [pool.submit(one).result(20) for _ in range(size)] == [1] * size


def test_without_a_database_queries_fail_in_time_and_with_it_they_work_again(pool: ReadPool, proxy: Proxy) -> None:
    pool.submit(one).result(10)
    proxy.open = False
    proxy.cut()
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            pool.submit(one).result(3)
    assert failing(pool)
    proxy.open = True

    def works() -> bool:
        try:
            return bool(pool.submit(one).result(3) == 1)
        except DatabaseUnavailable:
            return False

    begun = time.monotonic()
    eventually(works)
    assert time.monotonic() - begun < 3
    assert not failing(pool)


def test_a_pool_without_a_database_is_made_at_once() -> None:
    begun = time.monotonic()
    pool = ReadPool("postgresql://nobody@127.0.0.1:1/none", application_name="reads", timeout_seconds=0.2)
    with pytest.raises(DatabaseUnavailable):
        pool.submit(one).result(10)
    pool.close()
    assert time.monotonic() - begun < 3


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the process at the end."""
    try:
        yield
    finally:
        process.kill()


def test_while_the_database_fails_a_query_is_refused_before_its_time_is_over() -> None:
    pool = ReadPool("postgresql://nobody@127.0.0.1:1/none", application_name="reads", timeout_seconds=60)
    pool.failed_at = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        pool.submit(one).result(20)
    pool.close()


ENDS = """
import sys, threading
from orderflow.messaging.postgres.read_pool import ReadPool
pool = ReadPool(sys.argv[1], application_name="reads", timeout_seconds=float(sys.argv[2]), size=2)
pool.submit(lambda transaction: transaction.execute("select 1")).result(10)
print("up", flush=True)
sys.stdin.readline()
reads = [pool.submit(lambda transaction: transaction.execute("select pg_sleep(60)")) for _ in range(4)]
while not reads[1].running():
    pass
print("reading", flush=True)
sys.stdin.readline()
pool.close()
"""


@pytest.mark.parametrize(("reachable", "timeout"), [(True, 30), (False, 2)])
def test_queries_that_run_hold_up_no_process_that_ends(
    proxy: Proxy, database: str, *, reachable: bool, timeout: float
) -> None:
    argv = [sys.executable, "-c", ENDS, proxy.url, str(timeout)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process, ending(process):
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "up\n"
        if not reachable:
            proxy.responding.clear()  # responses no longer arrive
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "reading\n"
        eventually(lambda: backends(database, "pg_sleep(60)") == (2 if reachable else 0))
        begun = time.monotonic()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(20) == 0
    assert time.monotonic() - begun < 5
