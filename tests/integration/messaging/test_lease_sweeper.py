# SPDX-License-Identifier: Apache-2.0
"""The leases of a process end when it is gone, and only then."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from local.eventually import eventually
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.lease_sweeper import GRACE_SECONDS, SETTLING_SECONDS, end_of_leases
from orderflow.messaging.postgres.instance import NO_OWNER
from orderflow.messaging.publish import outbox
from tests.rigs.consumer import one, prepare, query
from tests.rigs.instances import Member, members, terminate
from tests.rigs.tcp_proxy import Proxy

pytestmark = pytest.mark.integration
RUNNING = "select count(*) from outbox where leased_until > now()"


@pytest.fixture
def url(url: str) -> str:
    """On a server that has run for a while: after its start everybody is given time to connect."""
    young = "select pg_postmaster_start_time() > now() - interval '10.1 seconds'"
    eventually(lambda: not one(url, young), 15, what="a server that has settled")
    return url


@pytest.fixture
def pair(url: str) -> Iterator[list[Member]]:
    with members(url, 2) as found:
        yield found


def registered(url: str) -> set[int]:
    return {number for (number,) in query(url, "select id from instances")}


def test_the_rows_of_a_process_that_is_gone_are_due_before_their_lease_ends(url: str, pair: list[Member]) -> None:
    survivor, dead = pair
    dead.leave_rows(3)
    survivor.leave_rows(2)
    assert survivor.sweep_for(5) == 0, "it is alive"
    dead.die()
    assert survivor.sweep_for(GRACE_SECONDS + 0.25) == 3
    assert one(url, "select count(*) from outbox where leased_until <= now() and leased_by is null") == 3
    assert one(url, RUNNING) == 2, "its own rows keep their lease"
    assert survivor.woken == 1
    assert registered(url) == {survivor.instance.id}


def test_a_process_that_lost_one_connection_keeps_its_leases(url: str, pair: list[Member]) -> None:
    survivor, unlucky = pair
    unlucky.leave_rows(3)
    unlucky.databases[0].close()
    unlucky.databases[1].close()
    assert survivor.sweep_for(5) == 0
    assert one(url, RUNNING) == 3


def test_a_process_that_lost_all_connections_keeps_its_leases_when_it_is_quickly_back(
    url: str, pair: list[Member]
) -> None:
    survivor, unlucky = pair
    unlucky.leave_rows(3)
    unlucky.die()
    assert survivor.sweep_for(GRACE_SECONDS - 0.25) == 0
    unlucky.connect()
    assert survivor.sweep_for(5) == 0
    assert one(url, RUNNING) == 3


def test_a_process_that_comes_back_after_a_take_over_owns_its_new_leases(url: str, pair: list[Member]) -> None:
    survivor, late = pair
    late.leave_rows(3)
    late.die()
    assert survivor.sweep_for(2) == 3
    late.connect()
    late.leave_rows(1)
    assert survivor.sweep_for(5) == 0
    assert registered(url) == {survivor.instance.id, late.instance.id}
    late.die()
    assert survivor.sweep_for(2) == 1


def test_when_everybody_lost_the_database_nobody_is_taken_over_before_all_could_return(
    url: str, pair: list[Member]
) -> None:
    first, second = pair
    second.leave_rows(3)
    assert first.sweep_for(1) == 0
    assert terminate(url) == 6
    with pytest.raises(DatabaseUnavailable):
        first.sweeper.sweep()
    assert first.sweep_for(SETTLING_SECONDS - 0.5) == 0, "it is the first that is back"
    second.connect()
    assert first.sweep_for(10) == 0
    assert one(url, RUNNING) == 3


def test_who_does_not_return_to_the_database_is_taken_over_in_the_end(url: str, pair: list[Member]) -> None:
    first, second = pair
    second.leave_rows(3)
    assert first.sweep_for(1) == 0
    terminate(url)
    with pytest.raises(DatabaseUnavailable):
        first.sweeper.sweep()
    assert first.sweep_for(SETTLING_SECONDS + 0.25) == 3


def test_after_a_start_of_the_server_everybody_is_given_time(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts with the server cannot know who was there before."""
    prepare(database)
    module = "orderflow.messaging.lease_sweeper._FREE"
    young = (
        "select id, true from instances where id <> %(own)s and %(service)s = 'test' and pg_try_advisory_xact_lock(id)"
    )
    monkeypatch.setattr(module, young)
    with members(database, 2) as (first, second):
        second.leave_rows(3)
        second.die()
        assert first.sweep_for(SETTLING_SECONDS - 0.5) == 0
        assert first.sweep_for(0.5) == 3


def test_each_service_takes_over_its_own_where_several_share_a_database(url: str, pair: list[Member]) -> None:
    """A sweeper knows the tables of its own service only."""
    neighbour, dead = pair
    with members(url, 1, service="another") as (stranger,):
        dead.leave_rows(3)
        dead.die()
        assert stranger.sweep_for(5) == 0
        assert neighbour.sweep_for(2) == 3


def test_two_sweepers_take_over_once(url: str) -> None:
    with members(url, 3) as (one_of_them, other, dead):
        for _ in range(20):
            dead.connect()
            dead.leave_rows(20)
            dead.die()
            with ThreadPoolExecutor(2) as pool:
                counts = list(pool.map(lambda member: member.sweep_for(2), (one_of_them, other)))
            while sum(counts) == 0:  # their looks met each time, and each took the other's lock for the owner's
                counts = [one_of_them.sweep_for(2), 0]
            assert sum(counts) == 20
        assert one_of_them.woken + other.woken == 20


def test_a_commit_that_the_dead_process_still_had_under_way_is_taken_over_with_the_rest(
    url: str, pair: list[Member]
) -> None:
    """A backend works on after its client has died: until it has ended, its lock says that more may come."""
    survivor, dead = pair
    with psycopg.connect(url, autocommit=True) as blocker:
        blocker.execute("select pg_advisory_lock(7)")
        with ThreadPoolExecutor(1) as pool:
            committing = pool.submit(_insert_slowly, dead)
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            eventually(lambda: one(url, waiting) == 1)
            dead.databases[0].close()
            dead.databases[2].close()
            assert survivor.sweep_for(5) == 0
            blocker.execute("select pg_advisory_unlock(7)")
            committing.result(10)
        dead.die()
    assert survivor.sweep_for(2) == 1


def _insert_slowly(member: Member) -> None:
    with member.databases[1].transaction() as transaction:
        transaction.execute(
            "insert into outbox select gen_random_uuid(), '', '', '{}', '', now(), now() + interval '1 minute',"
            " %(owner)s from (select pg_advisory_xact_lock_shared(7)) as locked",
            {"owner": transaction.owner},
        )


def test_behind_a_pooler_leases_are_nobodys_and_end_by_their_time(url: str) -> None:
    with Proxy(url) as proxy, members(url, 1) as (survivor,):
        proxy.pooling = True
        with Member(proxy.url) as pooled:
            pooled.leave_rows(3)
            assert query(url, "select distinct leased_by from outbox") == [(NO_OWNER,)]
            assert registered(url) == {survivor.instance.id}
        assert survivor.sweep_for(5) == 0
        assert one(url, RUNNING) == 3


def test_a_look_at_living_processes_is_one_statement_of_its_own(pair: list[Member]) -> None:
    first, _ = pair
    statements: list[str] = []
    execute = first.databases[0].execute

    def counting(statement: str, parameters: Any = None) -> Any:
        statements.append(statement)
        return execute(statement, parameters)

    first.databases[0].execute = counting  # type: ignore[method-assign]
    first.databases[0].transaction = None  # type: ignore[assignment, method-assign]
    first.sweeper.sweep()
    assert len(statements) == 1


def test_a_take_over_touches_few_rows_of_a_large_outbox(url: str, pair: list[Member]) -> None:
    """With 100,000 rows that wait for a broker, and a few leases."""
    _, dead = pair
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "insert into outbox (id, exchange, routing_key, properties, body, created_at, leased_until)"
            " select gen_random_uuid(), 'order_events', 'order.rejected', '{}', '', now(), now() - n * interval '1 ms'"
            " from generate_series(1, 100000) as n"
        )
        dead.leave_rows(20)
        connection.execute("vacuum analyze outbox")
        statement = end_of_leases(outbox.LEASED).replace("%(ids)s", f"'{{{dead.instance.id}}}'")
        row = connection.execute(f"explain (analyze, buffers, format json) {statement}".encode()).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert "Seq Scan" not in json.dumps(plan)
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 1000, "the table alone has more"
    assert one(url, RUNNING) == 0
