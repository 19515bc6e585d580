# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL on loopback, which creates databases, each with a login of its own."""

import os
import secrets
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from local.servers.enclosed_server import EnclosedServer, NotOurServer, ServerContext, kept_password
from local.servers.roots import ServersUnavailable

_ADMIN = "postgres"
_CONNECT_SECONDS = 10
_MAKE_THEN_RUN = """
set -e
bin=$1
shift
if ! [ -d /data/pgdata ]; then
  rm -rf /data/unfinished
  "$bin/initdb" -D /data/unfinished -U postgres --pwfile=/data/password -A scram-sha-256 -E UTF8 --locale=C.UTF-8 -N
  mv /data/unfinished /data/pgdata
fi
exec "$bin/postgres" -D /data/pgdata "$@"
"""


class PostgreSQL(EnclosedServer):
    """A database server with a random superuser password; its data is kept after ``stop_immediate``.

    ``fsync=False`` is for quick tests. Commits then reach the operating system, but not necessarily the disk.
    """

    name = "postgresql"
    account = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: ends sessions; SIGTERM would wait for them

    def __init__(self, context: ServerContext, *, fsync: bool = True) -> None:
        super().__init__(context)
        self._password = kept_password(self.directory)
        self._fsync = fsync

    def url(self, database: str = "postgres") -> str:
        """The superuser's URL of a database."""
        return f"postgresql://{_ADMIN}:{self._password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create a database and a login of the same name that owns it; the login's URL."""
        return create_database(self.url(), name)

    def drop_database(self, name: str) -> None:
        """Drop a database and its login; sessions in it are ended."""
        drop_database(self.url(), name)

    def stop_immediate(self) -> None:
        """Stop it without a checkpoint, as ``pg_ctl stop -m immediate`` does; it stays down until ``start``."""
        pid = self.pid
        self._supervisor.hold(self.name)
        os.kill(pid, signal.SIGQUIT)
        self._supervisor.wait_gone(self.name)

    def is_ready(self) -> bool:
        """Whether it accepts logins; false while it recovers."""
        parameters = f"user\0{_ADMIN}\0database\0postgres\0\0".encode()
        startup = struct.pack("!ii", len(parameters) + 8, 196608) + parameters
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(startup)
            return connection.recv(1) == b"R"  # asks for the password; "E" while starting up

    def _command(self) -> Sequence[str]:
        newest = max((self.root / "usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "/data",
            "max_connections": 200,
            "fsync": "on" if self._fsync else "off",
            "synchronous_commit": "on",
            "jit": "off",  # our statements are short; compiling them takes longer than running them
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return ["sh", "-c", _MAKE_THEN_RUN, "postgresql", f"/{newest.relative_to(self.root)}", *options]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPostgreSQL:
    """A database server that runs elsewhere, given by the URL of a login that may create roles and databases."""

    admin_url: str

    def check(self) -> None:
        """Raises ServersUnavailable, naming the variable, when it cannot be used."""
        try:
            psycopg.connect(self.admin_url, connect_timeout=_CONNECT_SECONDS).close()
        except psycopg.Error as error:
            raise ServersUnavailable(f"ORDERFLOW_DATABASE_URL does not work: {error}") from error

    def url(self, database: str = "postgres") -> str:
        """The given login's URL of a database."""
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))

    def create_database(self, name: str) -> str:
        """Create a database and a login of the same name that owns it; the login's URL."""
        return create_database(self.admin_url, name)

    def drop_database(self, name: str) -> None:
        """Drop a database and its login; sessions in it are ended."""
        drop_database(self.admin_url, name)

    def kill(self) -> None:
        """Refused: raises NotOurServer."""
        raise NotOurServer("PostgreSQL was given by ORDERFLOW_DATABASE_URL; it cannot be stopped or killed from here")

    start = stop = stop_immediate = restart = kill


def create_database(admin_url: str, name: str) -> str:
    """Create the database ``name``, owned by a login of that name with a random password; the login's URL.

    An existing database and login are kept; the login gets a new password.
    """
    password = secrets.token_urlsafe(24)
    login, secret = sql.Identifier(name), sql.Literal(password)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        known = connection.execute("select 1 from pg_roles where rolname = %s", (name,)).fetchone()
        verb = sql.SQL("alter" if known else "create")
        connection.execute(sql.SQL("{} role {} login password {}").format(verb, login, secret))
        if connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone() is None:
            connection.execute(sql.SQL("grant {} to current_user").format(login))
            connection.execute(sql.SQL("create database {} owner {}").format(login, login))
        connection.execute(sql.SQL("revoke all on database {} from public").format(login))
    parts = urlsplit(admin_url)
    netloc = f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{name}"))


def drop_database(admin_url: str, name: str) -> None:
    """Drop a database and its login, as ``create_database`` created them; sessions in it are ended."""
    both = sql.Identifier(name)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(both))
        connection.execute(sql.SQL("drop role if exists {}").format(both))
