# SPDX-License-Identifier: Apache-2.0
"""The servers on this machine: RabbitMQ, PostgreSQL, and on request Prometheus and Alertmanager.

``python -m local.servers`` runs them in the foreground until Ctrl-C.
"""

import argparse
import fcntl
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn, Self
from urllib.parse import urlsplit

from local.interrupts import stop_on_terminate
from local.servers.enclosed_server import EnclosedServer, ServerContext
from local.servers.ports import Ports
from local.servers.postgresql import GivenPostgreSQL, PostgreSQL
from local.servers.prometheus import BROKER_JOB, Alertmanager, Prometheus
from local.servers.rabbitmq import GivenRabbitMQ, RabbitMQ
from local.servers.roots import SUITES, ServersUnavailable, ensure_root
from local.supervisor.supervisor import ProcessFailed, Supervisor


class ServerNotStarted(Exception):
    """This server was not asked for when the stack was started."""


class Stack:
    """Running servers; a context manager that stops the servers it started. Create one with ``Stack.start``."""

    def __init__(self, *, directory: Path | None = None, report: Callable[[str], None] | None = None) -> None:
        self._closing = ExitStack()
        self.directory = directory or self._temporary_directory()
        self._closing.enter_context(_taken(self.directory))
        self._report = report or (lambda _line: None)
        self._ports = Ports()
        self._closing.callback(self._ports.release)
        self.supervisor = self._closing.enter_context(Supervisor(report=self._report))
        self._rabbitmq: RabbitMQ | GivenRabbitMQ | None = None
        self._postgresql: PostgreSQL | GivenPostgreSQL | None = None
        self._prometheus: Prometheus | None = None
        self._alertmanager: Alertmanager | None = None

    @classmethod
    def start(
        cls,
        *,
        suite: str = "trixie",
        directory: Path | None = None,
        rabbitmq: bool = True,
        postgresql: bool = True,
        prometheus: bool = False,
        alertmanager: bool = False,
        rabbitmq_config: str = "",
        fsync: bool = True,
        targets: Mapping[str, Sequence[str]] | None = None,
        rule_files: Sequence[Path] = (),
        webhook: str = "",
        environ: Mapping[str, str] = os.environ,
        report: Callable[[str], None] | None = None,
    ) -> Self:
        """Start these servers of a Debian suite together; returns when all are ready.

        Servers that ``environ`` gives by URL are used instead. Without ``directory`` the data is in a temporary
        directory, which is removed at the end. ``targets`` are scraped by Prometheus, in addition to the broker.
        Alertmanager sends alerts to ``webhook``. ``report`` is called with a line about each slow step or failure.
        Raises ServersUnavailable when this machine cannot run them, ProcessFailed when one does not come up.
        """
        _no_proxies()
        stack = cls(directory=directory, report=report)
        try:
            context = stack._contexts(suite, environ)
            if rabbitmq:
                stack._rabbitmq = given_rabbitmq(environ) or RabbitMQ(context(), extra_config=rabbitmq_config)
            if postgresql:
                stack._postgresql = given_postgresql(environ) or PostgreSQL(context(), fsync=fsync)
            if alertmanager:
                stack._alertmanager = Alertmanager(context(), webhook=webhook)
            if prometheus:
                stack._make_prometheus(context(), targets or {}, rule_files)
            for given in (stack._rabbitmq, stack._postgresql):
                if isinstance(given, GivenRabbitMQ | GivenPostgreSQL):
                    given.check()
            stack.supervisor.start(*(server.prepare() for server in stack._own()))
        except BaseException:
            stack.close()
            raise
        return stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the servers that were started and remove a temporary directory."""
        self._closing.close()

    @property
    def rabbitmq(self) -> RabbitMQ | GivenRabbitMQ:
        """The broker. Raises ServerNotStarted when the stack has none, as the other properties do."""
        return self._rabbitmq or _missing("RabbitMQ")

    @property
    def postgresql(self) -> PostgreSQL | GivenPostgreSQL:
        """The database server."""
        return self._postgresql or _missing("PostgreSQL")

    @property
    def prometheus(self) -> Prometheus:
        """Prometheus."""
        return self._prometheus or _missing("Prometheus")

    @property
    def alertmanager(self) -> Alertmanager:
        """Alertmanager."""
        return self._alertmanager or _missing("Alertmanager")

    def broker_targets(self) -> dict[str, list[str]]:
        """The broker as a target of Prometheus; empty when the address of its metrics is not known."""
        url = self._rabbitmq.metrics_url if self._rabbitmq else ""
        return {BROKER_JOB: [urlsplit(url).netloc]} if url else {}

    def addresses(self) -> dict[str, str]:
        """The URLs of the running servers, with the administrators' credentials."""
        found: dict[str, str] = {}
        if broker := self._rabbitmq:
            found |= {"amqp": broker.amqp_url, "management": broker.management_url, "metrics": broker.metrics_url}
        if self._postgresql:
            found["database"] = self._postgresql.url()
        return found | {server.name: server.url for server in (self._prometheus, self._alertmanager) if server}

    def _own(self) -> list[EnclosedServer]:
        servers = (self._rabbitmq, self._postgresql, self._alertmanager, self._prometheus)
        return [server for server in servers if isinstance(server, EnclosedServer)]

    def _contexts(self, suite: str, environ: Mapping[str, str]) -> Callable[[], ServerContext]:
        @cache
        def context() -> ServerContext:
            root = ensure_root(suite, self._report, environ=environ)
            return ServerContext(root=root, directory=self.directory, supervisor=self.supervisor, ports=self._ports)

        return context

    def _make_prometheus(
        self, context: ServerContext, targets: Mapping[str, Sequence[str]], rule_files: Sequence[Path]
    ) -> None:
        where = f"127.0.0.1:{self._alertmanager.port}" if self._alertmanager else ""
        every = {**self.broker_targets(), **targets}
        self._prometheus = Prometheus(context, targets=every, rule_files=rule_files, alertmanager=where)

    def _temporary_directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="orderflow-"))
        self._closing.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory


@contextmanager
def _taken(directory: Path) -> Iterator[None]:
    """Lock the data directory, because servers in namespaces cannot detect each other; raises ServersUnavailable."""
    directory.mkdir(parents=True, exist_ok=True)
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ServersUnavailable(f"Servers run on {directory} already; stop them, or name another folder.") from None
    finally:
        os.close(held)


def given_rabbitmq(environ: Mapping[str, str]) -> GivenRabbitMQ | None:
    """The broker that the environment gives by URL, or None; raises ServersUnavailable when a URL is missing."""
    amqp_url, management_url = environ.get("ORDERFLOW_AMQP_URL"), environ.get("ORDERFLOW_MANAGEMENT_URL")
    if not amqp_url:
        return None
    if not management_url:
        raise ServersUnavailable("ORDERFLOW_AMQP_URL is set; set ORDERFLOW_MANAGEMENT_URL of that broker too.")
    metrics_url = environ.get("ORDERFLOW_BROKER_METRICS_URL", "")
    return GivenRabbitMQ(amqp_url=amqp_url, management_url=management_url, metrics_url=metrics_url)


def given_postgresql(environ: Mapping[str, str]) -> GivenPostgreSQL | None:
    """The database server that the environment gives by URL, or None."""
    url = environ.get("ORDERFLOW_DATABASE_URL")
    return GivenPostgreSQL(admin_url=url) if url else None


def _no_proxies() -> None:
    """Never use a proxy for loopback, in this process and in those that it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        others = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*others, "127.0.0.1", "localhost"]))


def _missing(name: str) -> NoReturn:
    raise ServerNotStarted(f"this stack was started without {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the servers in the foreground; 0 after Ctrl-C, 2 when this machine cannot run them."""
    parser = argparse.ArgumentParser(prog="python -m local.servers", description=main.__doc__)
    parser.add_argument("--suite", choices=list(SUITES), default="trixie", help="Debian suite of the servers")
    parser.add_argument("--directory", type=Path, help="keep the data here (default: a temporary folder)")
    parser.add_argument("--prometheus", action="store_true", help="also Prometheus and Alertmanager")
    options = parser.parse_args(arguments)
    stop_on_terminate()
    try:
        with Stack.start(
            suite=options.suite,
            directory=options.directory and options.directory.resolve(),
            prometheus=options.prometheus,
            alertmanager=options.prometheus,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        ) as stack:
            for name, url in stack.addresses().items():
                print(f"{name:12} {url}", flush=True)
            print("Ctrl-C stops them", file=sys.stderr, flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except (ServersUnavailable, ProcessFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ServersUnavailable) else 1
    return 0
