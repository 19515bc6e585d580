# SPDX-License-Identifier: Apache-2.0
"""A complete orderflow system on given servers: topology, databases, keys and supervised processes."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

import psycopg

from local.http_json import http_json
from local.servers.enclosed_server import responds
from local.servers.ports import Ports
from local.servers.stack import Stack
from local.supervisor.supervisor import ProcessFailed, ProcessSpec, Supervisor
from orderflow.broker_topology import definitions, user_names
from orderflow.messaging.errors import MessagingError
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import apply
from orderflow.services import SERVICES

ROOT = Path(__file__).parents[1]
PROCESSES = {process: service.name for service in SERVICES for process in service.processes}
"""Every process, and the service whose database and broker user it has."""


@dataclass(frozen=True, slots=True)
class ProcessPorts:
    """The ports on which one process listens; they stay the same when it is restarted."""

    telemetry: int
    http: int


_WAITED_FOR = ("orders-api", "inventory-api", "payment-simulator", "trace-store")
"""Processes whose callers wait for a response: they are preferred while the CPU is short."""
_NICENESS = 10
_PASSED_ON = ("ORDERFLOW_ACCEPT_DATA_LOSS",)
"""Settings that describe given servers: they are passed on to the processes."""


class System:
    """Every process of orderflow on one stack of servers; ``with System.started(...)`` stops them at the end."""

    def __init__(
        self,
        stack: Stack,
        directory: Path,
        *,
        environ: Mapping[str, str] | None = None,
        name: str = "",
        commands: Mapping[str, Sequence[str]] | None = None,
        tree: Path = ROOT,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """``name`` separates several systems on the same servers: it is in the names of vhost, users and databases.

        ``commands`` replaces the command of a process, for tests with a modified build. ``tree`` is the checkout
        whose code runs. ``report`` is called with a line for every process that ends by itself.
        """
        self.stack = stack
        self.tree = tree
        self.directory = directory
        self.vhost = name or "/"
        self.prefix = f"{name}-" if name else ""
        self.orders_key, self.stock_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.passwords = {user: secrets.token_urlsafe(24) for user in user_names(SERVICES)}
        self.databases: dict[str, str] = {}
        self.ports = Ports()
        processes = (*PROCESSES, "payment-simulator", "reconciler", "trace-store")
        self.process_ports = {process: ProcessPorts(self.ports.take(), self.ports.take()) for process in processes}
        self.exits_allowed = False
        """True: a process that ends by itself is not a failure, because a person is trying out the system."""
        self._report = report or (lambda _line: None)
        self.supervisor = Supervisor(report=report)
        self._extra = dict(environ or {})
        self._commands = dict(commands or {})
        self._services = dict(PROCESSES)

    @classmethod
    @contextlib.contextmanager
    def started(cls, stack: Stack, directory: Path, **options: Any) -> Iterator[Self]:
        """A system with everything running and ready; everything is stopped at the end, also after a failure.

        Raises ProcessFailed at the end if a process ended by itself, although it was restarted. What a named system
        created on the servers is always removed.
        """
        system = cls(stack, directory, **options)
        with contextlib.ExitStack() as closing:
            closing.callback(system.ports.release)
            if system.prefix:
                closing.callback(system.remove)
            closing.enter_context(system.supervisor)
            system.prepare()
            system.start()
            yield system
        if (failures := system.failures()) and not system.exits_allowed:
            raise ProcessFailed(f"processes ended by themselves: {failures}; see {directory}")

    @property
    def orders_api(self) -> str:
        """Base URL of the orders API."""
        return f"http://127.0.0.1:{self.process_ports['orders-api'].http}"

    @property
    def orders_apis(self) -> list[str]:
        """Base URL of every replica of the orders API."""
        replicas = [name for name in self._services if name.startswith("orders-api")]
        return [f"http://127.0.0.1:{self.process_ports[name].http}" for name in replicas]

    @property
    def inventory_api(self) -> str:
        """Base URL of the inventory API."""
        return f"http://127.0.0.1:{self.process_ports['inventory-api'].http}"

    @property
    def simulator(self) -> str:
        """Base URL of the payment simulator."""
        return f"http://127.0.0.1:{self.process_ports['payment-simulator'].http}"

    @property
    def trace_store(self) -> str:
        """Base URL of the trace store."""
        return f"http://127.0.0.1:{self.process_ports['trace-store'].http}"

    def prepare(self) -> None:
        """Create databases, users and queues, before the first process starts."""
        for service in SERVICES:
            self.databases[service.name] = self.stack.postgresql.create_database(f"{self.prefix}{service.name}")
        self.apply_topology()

    def apply_topology(self) -> None:
        """Create users and queues."""
        document = definitions(SERVICES, vhost=self.vhost, passwords=self.passwords, user_prefix=self.prefix)
        apply(Management(self.stack.rabbitmq.management_url), document)

    def remove(self) -> None:
        """Delete what ``prepare`` created; what cannot be deleted is reported and skipped."""
        management, drop = Management(self.stack.rabbitmq.management_url), self.stack.postgresql.drop_database
        with self._failure_reported(f"the vhost {self.vhost} and its users"):
            management.delete("vhosts", self.vhost)
            for user in self.passwords:
                management.delete("users", f"{self.prefix}{user}")
        with self._failure_reported(f"the databases {self.prefix}*"):
            for service in SERVICES:
                drop(f"{self.prefix}{service.name}")

    @contextlib.contextmanager
    def _failure_reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except (MessagingError, psycopg.Error) as error:
            self._report(f"could not remove {what} from your servers: {error}")

    def start(self) -> None:
        """Start every process and wait until all are ready."""
        trace_store = [sys.executable, "-m", "local.trace_store"]
        simulator = self.command("payment-simulator", "--ledger", str(self.directory / "simulator.jsonl"))
        self.supervisor.start(
            self._spec("trace-store", trace_store, "/healthz", http=True),
            self._spec("payment-simulator", simulator, "/healthz", http=True),
            *(self.spec(name) for name in (*PROCESSES, "reconciler")),
        )

    def spec(self, name: str) -> ProcessSpec:
        """How a service process is started."""
        reconciles = name == "reconciler"
        words = ("reconciler",) if reconciles else ("serve", name)
        command = list(self._commands.get(name) or self.command(*words))
        after = tuple(PROCESSES) if reconciles else ("trace-store", "payment-simulator")  # it reads all their tables
        return self._spec(name, command, "/readyz", after=after)

    def replicate(self, name: str) -> str:
        """Start a second process like this one; its name."""
        second = f"{name}-2"
        self.process_ports[second] = ProcessPorts(self.ports.take(), self.ports.take())
        self._services[second] = PROCESSES[name]
        command = list(self._commands.get(name) or self.command("serve", name))
        self.supervisor.start(self._spec(second, command, "/readyz"))
        return second

    def failures(self) -> dict[str, list[int]]:
        """Exit codes of processes that ended by themselves: a crash, the watchdog, or a lack of memory.

        Processes whose command is replaced (``commands``) are not counted.
        """
        return {
            name: codes for name, codes in self.supervisor.unrequested_exits().items() if name not in self._commands
        }

    def command(self, *words: str) -> list[str]:
        """The orderflow command line."""
        return [sys.executable, "-m", "orderflow", *words]

    def run_tool(self, *words: str) -> str:
        """Run an operator's command to its end; its output. Raises RuntimeError with the output when it fails."""
        command, environ = self.command(*words), self.tool_environment()
        done = subprocess.run(command, env=environ, cwd=self.tree, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"orderflow {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def tool_environment(self) -> dict[str, str]:
        """The environment of an operator's command: the URLs, the replay user, the management API and the databases."""
        return self._plain_environment() | {
            "ORDERFLOW_AMQP_URL": self.amqp_url("replay"),
            "ORDERFLOW_MANAGEMENT_URL": self.stack.rabbitmq.management_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.trace_store,
            **self._reconciler_urls(),
        }

    def _reconciler_urls(self) -> dict[str, str]:
        return {f"ORDERFLOW_RECONCILER_{service.upper()}_URL": url for service, url in self.databases.items()}

    def amqp_url(self, user: str) -> str:
        """The broker's URL for one of the users of the topology."""
        parts = self._with_user(self.stack.rabbitmq.amqp_url, user)
        return urlunsplit(parts._replace(path=f"/{quote(self.vhost, safe='')}"))

    def _with_user(self, url: str, user: str) -> SplitResult:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]  # unchanged: a port may be missing, brackets may be needed
        return parts._replace(netloc=f"{self.prefix}{user}:{self.passwords[user]}@{host}")

    @property
    def admin_url(self) -> str:
        """The administrator's URL of the system's vhost."""
        parts = urlsplit(self.stack.rabbitmq.amqp_url)
        return urlunsplit(parts._replace(path=f"/{quote(self.vhost, safe='')}"))

    def environment(self, name: str) -> dict[str, str]:
        """The whole environment of one service process."""
        ports = self.process_ports[name]
        values = self._plain_environment() | {
            "ORDERFLOW_TELEMETRY_PORT": str(ports.telemetry),
            "ORDERFLOW_HTTP_PORT": str(ports.http),
            "ORDERFLOW_API_KEYS": self._api_keys(),
            "ORDERFLOW_PAYMENT_URL": self.simulator,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.trace_store,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.05",
        }
        if name == "reconciler":
            management_url = self.stack.rabbitmq.management_url
            values |= self._reconciler_urls() | {
                "ORDERFLOW_RECONCILER_MANAGEMENT_URL": urlunsplit(self._with_user(management_url, "monitor")),
                "ORDERFLOW_RECONCILER_VHOST": self.vhost,
            }
        if service := self._services.get(name):
            values |= {"ORDERFLOW_AMQP_URL": self.amqp_url(service), "ORDERFLOW_DATABASE_URL": self.databases[service]}
        return values | self._extra

    def set_stock(self, sku: str, on_hand: int, unit_price: int = 1999) -> None:
        """Set the stock of a SKU through the API."""
        body = {"on_hand": on_hand, "unit_price": unit_price, "currency": "EUR"}
        status, response = http_json("PUT", f"{self.inventory_api}/v1/stock/{sku}", key=self.stock_key, body=body)
        if status != 200:
            raise RuntimeError(f"stock of {sku} was refused: {status} {response}")

    def _api_keys(self) -> str:
        shop, warehouse = (sha256(key.encode()).hexdigest() for key in (self.orders_key, self.stock_key))
        return f"shop:orders:write+orders:read:{shop},warehouse:stock:write+stock:read:{warehouse}"

    def _plain_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORDERFLOW_", "OTEL_"))}
        kept |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return kept | {"PYTHONPATH": f"{self.tree / 'app'}:{self.tree}", "PYTHONUNBUFFERED": "1"}

    def _spec(
        self, name: str, argv: list[str], health: str, *, http: bool = False, after: tuple[str, ...] = ()
    ) -> ProcessSpec:
        ports = self.process_ports[name]
        if http:
            argv = [*argv, "--port", str(ports.http)]
        url = f"http://127.0.0.1:{ports.http if http else ports.telemetry}{health}"
        return ProcessSpec(
            name=name,
            argv=argv,
            env=self.environment(name),
            directory=self.tree,
            log=self.directory / f"{name}.log",
            ready=lambda: responds(url),
            start_after=after,
            grace_seconds=35,
            niceness=0 if name.startswith(_WAITED_FOR) else _NICENESS,
        )
