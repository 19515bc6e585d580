# SPDX-License-Identifier: Apache-2.0
"""The servers as local processes: they start, keep their data when they are killed, and leave nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import psycopg
import pytest
from pika.exceptions import AMQPError

from local.eventually import eventually
from local.servers.enclosed_server import EnclosedServer, NotOurServer
from local.servers.postgresql import PostgreSQL
from local.servers.rabbitmq import RabbitMQ
from local.servers.roots import ServersUnavailable
from local.servers.stack import ServerNotStarted, Stack
from local.system import System
from orderflow.operations.management_api import Management

pytestmark = pytest.mark.integration
CHECKOUT = Path(__file__).parents[3]
SUITE = os.environ.get("SERVERS", "trixie")
OURS = {name: value for name, value in os.environ.items() if not (name.startswith("ORDERFLOW") and "URL" in name)}
"""The environment without servers given by URL, because these tests are about started ones."""


IPV4_LOOPBACK, IPV6_LOOPBACK = "0100007F", "00000000000000000000000001000000"
"""As in /proc/net. epmd listens on both, whatever address it is given."""


def command_lines(word: str) -> dict[int, str]:
    """Processes whose command line contains the word."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line and int(folder.name) != os.getpid():
            found[int(folder.name)] = line
    return found


def nothing_is_left_of(directory: Path, ports: list[int]) -> bool:
    mounted = str(directory) in Path("/proc/mounts").read_text()
    return not mounted and not command_lines(str(directory)) and not any(map(is_open, ports))


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listening_sockets(server: EnclosedServer) -> set[tuple[str, int]]:
    """Address (as in /proc/net/tcp) and port of every TCP socket on which the server's processes listen."""
    enclosure = Path(f"/proc/{server.pid}/ns/pid").readlink()
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (process / "ns/pid").readlink() == enclosure:
                for file in (process / "fd").iterdir():
                    with suppress(OSError):  # it is closed by now
                        inodes.add(str(file.readlink()))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]
    ]
    places = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    return {(address, int(port, 16)) for address, port in places}


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    with Stack.start(suite=SUITE, environ=OURS) as stack:
        yield stack


@pytest.fixture
def broker(own: Stack) -> RabbitMQ:
    assert isinstance(own.rabbitmq, RabbitMQ)
    return own.rabbitmq


@pytest.fixture
def postgresql(own: Stack) -> PostgreSQL:
    assert isinstance(own.postgresql, PostgreSQL)
    return own.postgresql


def test_a_confirmed_message_survives_a_kill_of_the_broker(broker: RabbitMQ) -> None:
    parameters = pika.URLParameters(broker.amqp_url)
    channel = pika.BlockingConnection(parameters).channel()
    channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    channel.confirm_delivery()
    channel.basic_publish("", "kept", b"hello", pika.BasicProperties(delivery_mode=2), mandatory=True)
    eventually(lambda: broker.keeps("kept"))
    before = broker.pid
    broker.kill()
    with pytest.raises(AMQPError):
        channel.connection.close()
    eventually(lambda: not is_open(broker.port))
    broker.start()
    assert broker.pid != before
    with pika.BlockingConnection(parameters) as connection:
        _, properties, body = connection.channel().basic_get("kept", auto_ack=True)
    assert properties is not None
    assert (body, properties.delivery_mode) == (b"hello", 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_broker_has_no_default_user_and_the_plugins_that_we_need(broker: RabbitMQ) -> None:
    guest = pika.URLParameters(broker.amqp_url)
    guest.credentials = pika.PlainCredentials("guest", "guest")
    with pytest.raises(AMQPError):
        pika.BlockingConnection(guest)
    with pika.BlockingConnection(pika.URLParameters(broker.amqp_url)) as connection:
        connection.channel().exchange_declare("by_key", "x-consistent-hash")
    with urllib.request.urlopen(f"{broker.metrics_url}/detailed?family=queue_coarse_metrics", timeout=5) as response:
        assert b"rabbitmq_detailed_queue_messages" in response.read()


@pytest.mark.parametrize("end", [PostgreSQL.stop_immediate, EnclosedServer.kill, EnclosedServer.stop])
def test_a_committed_row_survives_each_way_of_ending(postgresql: PostgreSQL, end: Callable[[PostgreSQL], None]) -> None:
    url = postgresql.create_database("orders")
    with psycopg.connect(url) as connection:
        connection.execute("create table if not exists kept (value int)")
        connection.execute("insert into kept values (1)")
        connection.commit()
        rows = connection.execute("select count(*) from kept").fetchone()
        connection.commit()
        end(postgresql)
        assert not is_open(postgresql.port)
    postgresql.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == rows


def test_a_database_belongs_to_a_login_of_its_own(postgresql: PostgreSQL) -> None:
    payments, inventory = map(postgresql.create_database, ("payments", "inventory"))
    foreign = urlsplit(payments)._replace(path="/inventory").geturl()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(foreign)
    with psycopg.connect(inventory) as connection:
        found = connection.execute("select current_user, usesuper from pg_user where usename = current_user").fetchone()
    assert found == ("inventory", False)


def test_commits_are_durable_unless_a_quick_test_says_otherwise(postgresql: PostgreSQL) -> None:
    with psycopg.connect(postgresql.url()) as connection:
        settings = [connection.execute(f"show {name}".encode()).fetchone() for name in ("fsync", "synchronous_commit")]
    assert settings == [("on",), ("on",)]


def test_servers_run_unprivileged_on_a_read_only_root_and_only_on_loopback(own: Stack) -> None:
    for server in (own.rabbitmq, own.postgresql):
        assert isinstance(server, EnclosedServer)
        status = Path(f"/proc/{server.pid}/status").read_text()
        uids, capabilities = (
            next(line.split()[1:] for line in status.splitlines() if line.startswith(key))
            for key in ("Uid:", "CapEff:")
        )
        assert "0" not in uids
        assert int(capabilities[0], 16) == 0
        mounts = {
            line.split()[1]: line.split()[3] for line in Path(f"/proc/{server.pid}/mounts").read_text().splitlines()
        }
        assert mounts["/"].split(",")[0] == "ro"
        assert mounts["/data"].split(",")[0] == "rw"
        listening = listening_sockets(server)
        assert (IPV4_LOOPBACK, server.port) in listening
        assert {address for address, _ in listening} <= {IPV4_LOOPBACK, IPV6_LOOPBACK}


def test_stacks_run_side_by_side_with_everything_and_leave_nothing(own: Stack, tmp_path: Path) -> None:
    directory = tmp_path / "stack"
    with Stack.start(suite=SUITE, directory=directory, prometheus=True, alertmanager=True, environ=OURS) as second:
        ports = [urlsplit(url).port or 0 for url in second.addresses().values()]
        assert set(ports).isdisjoint(urlsplit(url).port for url in own.addresses().values())
        assert all(map(is_open, ports))
        second.prometheus.set_targets(second.broker_targets() | {"itself": [f"127.0.0.1:{second.prometheus.port}"]})
        expected = {"rabbitmq": "up", "rabbitmq-detailed": "up", "itself": "up"}
        eventually(lambda: healths(second) == expected, seconds=30)
        known = get_json(f"{second.prometheus.url}/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        assert [urlsplit(manager["url"]).port for manager in known] == [second.alertmanager.port]
        assert len(command_lines(str(directory))) == 4
    assert nothing_is_left_of(directory, ports)


def healths(stack: Stack) -> Mapping[str, str]:
    targets = get_json(f"{stack.prometheus.url}/api/v1/targets")["data"]["activeTargets"]
    return {target["labels"]["job"]: target["health"] for target in targets}


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 0)]
)
def test_nothing_is_left_when_the_program_itself_ends(signum: int, code: int, tmp_path: Path) -> None:
    # Under nohup the tests have SIGHUP ignored, and so would the program.
    command = ["env", "--default-signal", sys.executable, "-m", "local.servers", "--suite", SUITE]
    command += ["--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=OURS) as program:
        assert program.stdout is not None
        try:
            urls = dict(program.stdout.readline().split() for _ in range(4))
            ports = [urlsplit(url).port or 0 for url in urls.values()]
            assert all(map(is_open, ports))
            assert sorted(urls) == ["amqp", "database", "management", "metrics"]
            program.send_signal(signum)
            program.wait(30)
        finally:
            program.kill()
    assert program.returncode == code
    eventually(lambda: nothing_is_left_of(tmp_path, ports))


def test_given_servers_are_used_and_never_killed(own: Stack) -> None:
    given = {
        "ORDERFLOW_AMQP_URL": own.rabbitmq.amqp_url,
        "ORDERFLOW_MANAGEMENT_URL": own.rabbitmq.management_url,
        "ORDERFLOW_DATABASE_URL": own.postgresql.url(),
    }
    with Stack.start(environ=given) as stack:
        assert stack.rabbitmq.amqp_url == own.rabbitmq.amqp_url
        assert stack.supervisor.pids() == {}
        with psycopg.connect(stack.postgresql.create_database("notifications")) as connection:
            assert connection.info.dbname == "notifications"
        with pytest.raises(NotOurServer, match="ORDERFLOW_AMQP_URL"):
            stack.rabbitmq.kill()
        with pytest.raises(NotOurServer, match="ORDERFLOW_DATABASE_URL"):
            stack.postgresql.stop_immediate()
        with pytest.raises(ServerNotStarted, match="without Prometheus"):
            _ = stack.prometheus
    with pytest.raises(ServersUnavailable, match="ORDERFLOW_MANAGEMENT_URL"):
        Stack.start(environ={"ORDERFLOW_AMQP_URL": own.rabbitmq.amqp_url})


def test_two_stacks_never_work_on_the_same_data(own: Stack) -> None:
    with pytest.raises(ServersUnavailable, match="already"):
        Stack.start(suite=SUITE, directory=own.directory, environ=OURS)
    with psycopg.connect(own.postgresql.url()) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("variable", ["ORDERFLOW_AMQP_URL", "ORDERFLOW_MANAGEMENT_URL", "ORDERFLOW_DATABASE_URL"])
@pytest.mark.parametrize("wrong", ["no server listens", "the password is wrong"])
def test_a_given_server_that_cannot_be_used_is_named(own: Stack, variable: str, wrong: str) -> None:
    given = {
        "ORDERFLOW_AMQP_URL": own.rabbitmq.amqp_url,
        "ORDERFLOW_MANAGEMENT_URL": own.rabbitmq.management_url,
        "ORDERFLOW_DATABASE_URL": own.postgresql.url(),
    }
    parts = urlsplit(given[variable])
    address = f"{parts.username}:wrong@127.0.0.1:{9 if wrong == 'no server listens' else parts.port}"
    with pytest.raises(ServersUnavailable, match=variable):
        Stack.start(environ={**given, variable: parts._replace(netloc=address).geturl()})


def test_what_a_system_makes_on_servers_is_removed_however_it_ends(
    own: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[set[str]] = []

    def names() -> set[str]:
        management = Management(own.rabbitmq.management_url)
        found = {entry["name"] for kind in ("vhosts", "users") for entry in json.loads(management.get(kind))}
        with psycopg.connect(own.postgresql.url()) as connection:
            found |= {name for (name,) in connection.execute("select datname from pg_database")}
            found |= {name for (name,) in connection.execute("select rolname from pg_roles")}
        return {name for name in found if name.startswith("short-lived")}

    def interrupted(_system: System) -> None:
        made.append(names())
        raise KeyboardInterrupt

    monkeypatch.setattr(System, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), System.started(own, tmp_path, name="short-lived"):
        pass
    assert {"short-lived", "short-lived-orders"} <= made[0]
    assert names() == set()
