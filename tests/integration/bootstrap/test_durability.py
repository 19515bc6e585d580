# SPDX-License-Identifier: Apache-2.0
"""A process does not start, and does not go on, on a server that may lose commits, unless it is told to accept that."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from local.eventually import eventually
from local.servers.stack import Stack
from local.system import System
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.durability import LosesCommits, require_durable

pytestmark = pytest.mark.integration


@pytest.fixture
def system(stack: Stack, tmp_path: Path) -> Iterator[System]:
    """Queues, users and empty databases; the sessions of inventory do not wait for the disk."""
    system = System(stack, tmp_path, name="lossy")
    try:
        system.prepare()
        with psycopg.connect(stack.postgresql.url(), autocommit=True) as connection:
            connection.execute('alter role "lossy-inventory" set synchronous_commit = off')
        yield system
    finally:
        system.supervisor.close()
        system.remove()
        system.ports.release()


def test_a_process_whose_sessions_do_not_wait_for_the_disk_exits_with_2(system: System) -> None:
    environ = system.environment("inventory") | {"ORDERFLOW_ACCEPT_DATA_LOSS": "off"}
    done = subprocess.run(
        system.command("serve", "inventory"), env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "synchronous_commit=off" in done.stderr and "ORDERFLOW_ACCEPT_DATA_LOSS=on" in done.stderr
    assert '"event":"database.loses_commits"' in done.stdout


def test_it_starts_when_the_loss_is_accepted_and_logs_a_warning(system: System) -> None:
    spec = system.spec("inventory")
    environ = system.environment("inventory") | {"ORDERFLOW_ACCEPT_DATA_LOSS": "on"}
    with system.supervisor as supervisor:
        supervisor.start(replace(spec, env=environ, start_after=()))
        assert supervisor.exits("inventory") == []
    assert '"event":"database.loses_commits"' in spec.log.read_text()


def test_after_a_failover_to_a_server_that_may_lose_commits_nothing_is_written_until_it_keeps_them(
    stack: Stack, system: System
) -> None:
    """The role's setting takes the place of another server: it holds for the connections that are made from now on."""
    admin = stack.postgresql.url()

    def let_commits_wait(setting: str) -> None:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f'alter role "lossy-inventory" set synchronous_commit = {setting}'.encode())
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'lossy-inventory'"
            )

    def commit() -> None:
        with database.transaction() as transaction:
            transaction.execute("create table if not exists written (one int)")

    def fails() -> bool:
        try:
            commit()
        except LosesCommits:
            return True
        except DatabaseUnavailable:  # the connection that was terminated
            return False
        raise AssertionError("committed on a server that may lose commits")

    let_commits_wait("on")
    database = Database(system.databases["inventory"], durable=True)
    commit()
    let_commits_wait("off")
    eventually(fails, what="the server is refused")
    assert fails()
    let_commits_wait("on")
    commit()
    assert database.connections == 2
    database.close()


def test_a_server_without_fsync_is_recognised() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORDERFLOW_DATABASE")}
    suite = os.environ.get("SERVERS", "trixie")
    with Stack.start(suite=suite, rabbitmq=False, fsync=False, environ=environ) as stack:
        database = Database(stack.postgresql.url())
        with pytest.raises(LosesCommits, match="fsync=off"), database.transaction() as transaction:
            require_durable(transaction.execute)
        database.close()
