# SPDX-License-Identifier: Apache-2.0
"""The whole of orderflow on given servers: topology, databases, keys, and every process of it, supervised."""

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
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg

from local.http_json import http_json
from local.servers.enclosed_server import answers
from local.servers.ports import Ports
from local.servers.stack import Stack
from local.supervisor.supervisor import ProcessFailed, ProcessSpec, Supervisor
from orderflow.broker_topology import definitions, user_names
from orderflow.messaging.errors import MessagingError
from orderflow.operations.management_api import Management
from orderflow.operations.topology.command import apply
from orderflow.services import SERVICES

ROOT = Path(__file__).parents[1]
PROCESSES = {process: service.name for service in SERVICES for process in service.processes}
"""Every process of the services, and the service whose database and broker user it has."""


@dataclass(frozen=True, slots=True)
class ProcessPorts:
    """The ports on which one process listens; kept over its restarts."""

    telemetry: int
    http: int


class System:
    """Every process of orderflow on one stack of servers; ``with System.started(...)`` stops it in the end."""

    def __init__(
        self,
        stack: Stack,
        directory: Path,
        *,
        environ: Mapping[str, str] | None = None,
        name: str = "",
        commands: Mapping[str, Sequence[str]] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """``name`` separates several systems on the same servers: it is in the names of vhost, users and databases.

        ``commands`` replaces the command of a process, for tests with a modified build. ``report`` is called with a
        line for every process that ends by itself.
        """
        self.stack = stack
        self.directory = directory
        self.vhost = name or "/"
        self.prefix = f"{name}-" if name else ""
        self.orders_key, self.stock_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.passwords = {user: secrets.token_urlsafe(24) for user in user_names(SERVICES)}
        self.databases: dict[str, str] = {}
        self.ports = Ports()
        processes = (*PROCESSES, "payment-simulator", "reconciler", "trace-store")
        self.process_ports = {process: ProcessPorts(self.ports.take(), self.ports.take()) for process in processes}
        self.forgiving = False
        """True: a process that ends by itself is no failure, because a person experiments with the system."""
        self._report = report or (lambda _line: None)
        self.supervisor = Supervisor(report=report)
        self._extra = dict(environ or {})
        self._commands = dict(commands or {})
        self._services = dict(PROCESSES)

    @classmethod
    @contextlib.contextmanager
    def started(cls, stack: Stack, directory: Path, **options: Any) -> Iterator[Self]:
        """A system with everything running and ready; everything is stopped at the end, also after a failure.

        Raises ProcessFailed at the end when a process had ended by itself, although it was started again. What a
        system with a name made on the servers is removed, however it ends.
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
        if (failures := system.failures()) and not system.forgiving:
            raise ProcessFailed(f"processes ended by themselves: {failures}; see {directory}")

    @property
    def orders_api(self) -> str:
        """Base URL of the orders API."""
        return f"http://127.0.0.1:{self.process_ports['orders-api'].http}"

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
        """Databases, users, queues: what is made once before the first process starts."""
        for service in SERVICES:
            self.databases[service.name] = self.stack.postgresql.create_database(f"{self.prefix}{service.name}")
        document = definitions(SERVICES, vhost=self.vhost, passwords=self.passwords, user_prefix=self.prefix)
        apply(Management(self.stack.rabbitmq.management_url), document)

    def remove(self) -> None:
        """Delete what ``prepare`` made, as far as it came; tells of what it could not delete, and goes on."""
        management, drop = Management(self.stack.rabbitmq.management_url), self.stack.postgresql.drop_database
        with self._telling(f"the vhost {self.vhost} and its users"):
            management.delete("vhosts", self.vhost)
            for user in self.passwords:
                management.delete("users", f"{self.prefix}{user}")
        with self._telling(f"the databases {self.prefix}*"):
            for service in SERVICES:
                drop(f"{self.prefix}{service.name}")

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (MessagingError, psycopg.Error) as error:
            self._report(f"could not remove {what} from your servers: {error}")

    def start(self) -> None:
        """Start every process and wait until each says that it is ready."""
        trace_store = [sys.executable, "-m", "local.trace_store"]
        simulator = self.command("payment-simulator", "--ledger", str(self.directory / "simulator.jsonl"))
        self.supervisor.start(
            self._spec("trace-store", trace_store, "/healthz", http=True),
            self._spec("payment-simulator", simulator, "/healthz", http=True),
            *(self.spec(name) for name in (*PROCESSES, "reconciler")),
        )

    def spec(self, name: str) -> ProcessSpec:
        """How a service process is started."""
        words = ("reconciler",) if name == "reconciler" else ("serve", name)
        command = list(self._commands.get(name) or self.command(*words))
        return self._spec(name, command, "/readyz", after=("trace-store", "payment-simulator"))

    def replicate(self, name: str) -> str:
        """Start a second process like this one; its name."""
        second = f"{name}-2"
        self.process_ports[second] = ProcessPorts(self.ports.take(), self.ports.take())
        self._services[second] = PROCESSES[name]
        command = list(self._commands.get(name) or self.command("serve", name))
        self.supervisor.start(self._spec(second, command, "/readyz"))
        return second

    def failures(self) -> dict[str, list[int]]:
        """How processes ended that should not have: a crash, the watchdog, or memory that ran out.

        A build that is broken on purpose (``commands``) may end as it likes.
        """
        return {name: codes for name, codes in self.supervisor.unasked_exits().items() if name not in self._commands}

    def command(self, *words: str) -> list[str]:
        """The orderflow command line."""
        return [sys.executable, "-m", "orderflow", *words]

    def run_tool(self, *words: str) -> str:
        """Run an operator's command to its end; its output. Raises CalledProcessError with what it said."""
        answer = subprocess.run(
            self.command(*words), env=self.tool_environment(), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if answer.returncode:
            raise RuntimeError(f"orderflow {' '.join(words)}: exit {answer.returncode}\n{answer.stdout}{answer.stderr}")
        return answer.stdout

    def tool_environment(self) -> dict[str, str]:
        """The environment of an operator's command: the management API, and the user that may replay."""
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
        parts = urlsplit(self.stack.rabbitmq.amqp_url)
        host = parts.netloc.rpartition("@")[2]  # as it was written: a port may be missing, brackets may be needed
        netloc = f"{self.prefix}{user}:{self.passwords[user]}@{host}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{quote(self.vhost, safe='')}"))

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
            values |= self._reconciler_urls()
        if service := self._services.get(name):
            values |= {"ORDERFLOW_AMQP_URL": self.amqp_url(service), "ORDERFLOW_DATABASE_URL": self.databases[service]}
        return values | self._extra

    def set_stock(self, sku: str, on_hand: int, unit_price: int = 1999) -> None:
        """Set the stock of a SKU through the API."""
        body = {"on_hand": on_hand, "unit_price": unit_price, "currency": "EUR"}
        status, answer = http_json("PUT", f"{self.inventory_api}/v1/stock/{sku}", key=self.stock_key, body=body)
        if status != 200:
            raise RuntimeError(f"stock of {sku} was refused: {status} {answer}")

    def addresses(self) -> dict[str, Any]:
        """Where everything is, for other programs."""
        return {
            "orders_api": self.orders_api,
            "inventory_api": self.inventory_api,
            "orders_key": self.orders_key,
            "stock_key": self.stock_key,
            "amqp_admin": self.admin_url,
            "databases": self.databases,
            "metrics": {
                name: f"http://127.0.0.1:{self.process_ports[name].telemetry}/metrics"
                for name in (*PROCESSES, "reconciler")
            },
            "processes": self.supervisor.pids(),
        }

    def metrics_targets(self) -> dict[str, list[str]]:
        """Job to addresses of every process that Prometheus can scrape."""
        return {name: [f"127.0.0.1:{self.process_ports[name].telemetry}"] for name in (*PROCESSES, "reconciler")}

    def _api_keys(self) -> str:
        shop, shelf = (sha256(key.encode()).hexdigest() for key in (self.orders_key, self.stock_key))
        return f"shop:orders:write+orders:read:{shop},shelf:stock:write+stock:read:{shelf}"

    def _plain_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORDERFLOW_", "OTEL_"))}
        return kept | {"PYTHONPATH": f"{ROOT / 'app'}:{ROOT}", "PYTHONUNBUFFERED": "1"}

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
            directory=ROOT,
            log=self.directory / f"{name}.log",
            ready=lambda: answers(url),
            start_after=after,
            grace_seconds=35,
        )
