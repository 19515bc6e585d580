# SPDX-License-Identifier: Apache-2.0
"""How a service declares its processes, and the parts that a process is built from.

A service's ``process.py`` holds ``PROCESSES``: name to declaration. ``bootstrap`` imports only that module, and only
for the process that it runs. What else a process needs (an HTTP framework, an HTTP client) is imported in its
``build``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from orderflow.http.api_keys import ApiKeys
from orderflow.http.asgi import Application
from orderflow.instrumentation import Area, Instrumentation
from orderflow.messaging.clock import Clock
from orderflow.messaging.effects import Effect, EffectRunner
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.publish.relay import Relay
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from orderflow.messaging.service import Handler, Prunable
from orderflow.settings import Need, Settings

if TYPE_CHECKING:
    from orderflow.http.early_refusal import EarlyRefusal
    from orderflow.http.rate_limit import RateLimit
    from orderflow.messaging.postgres.read_pool import ReadPool

Task = TypeVar("Task")
Result = TypeVar("Result")


class Loop(Protocol):
    """Work in a thread of its own, until it is stopped."""

    @property
    def name(self) -> str:
        """What the loop does, for logs and metrics."""

    @property
    def last_progress(self) -> float:
        """Monotonic time of the loop's last progress."""

    def run(self) -> None:
        """Work until stopped."""

    def stop(self) -> None:
        """Finish the work in progress and return from ``run``."""


class Runtime(Protocol):
    """The parts of one process, made from its settings. Each unit of work and each database connection is new."""

    @property
    def settings(self) -> Settings:
        """The settings of the process."""

    @property
    def clock(self) -> Clock:
        """The clock of the process."""

    @property
    def instrumentation(self) -> Instrumentation:
        """Receives the reports of the process."""

    def unit_of_work(self) -> UnitOfWorkFactory:
        """Units of work on a new connection, for one thread."""

    def relay(self) -> Relay:
        """The recovery relay of this service's outbox."""

    def effect_runner(
        self, name: str, effects: Effect[Task, Result], *, concurrency: int, lease_seconds: float
    ) -> EffectRunner[Task, Result]:
        """The loop that makes one kind of call to the outside; ``lease_seconds`` are longer than any call."""

    def periodic(self, name: str, seconds: float, action: Callable[[SqlUnitOfWork], bool | None]) -> Periodic:
        """A loop that runs ``action`` in a transaction every ``seconds``; immediately again when it returned True."""

    def pruner(self, name: str, *prunables: Prunable) -> Periodic:
        """A loop that deletes old rows a page at a time, in one process of the service at a time."""

    def consumers(self, queue_name: str, handler: Callable[[], Handler]) -> Iterator[Loop]:
        """A consumer for each partition of a queue that the service declares, each with a handler of its own.

        The first call also returns the loop that prunes the service's inbox.
        """

    def add(self, *loops: Loop) -> None:
        """Run these loops, and stop them together. Loops added first are stopped first: add producers before sinks."""

    def api_keys(self) -> ApiKeys | None:
        """The configured API keys; None when keys are switched off."""

    def rate_limit(self) -> "RateLimit | None":
        """The limit of each client's requests; None without one."""

    def read_pool(self, *, timeout_seconds: float) -> "ReadPool":
        """A pool for the queries of an HTTP API; no query takes longer than ``timeout_seconds``."""

    def serve_http(self, application: Application, early_refusal: "EarlyRefusal | None" = None) -> None:
        """Serve an ASGI application at the configured address; raises OSError when its port is taken.

        What ``early_refusal`` refuses does not reach the application.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDeclaration:
    """One process of a service.

    ``build`` adds its loops to the runtime. The metrics of its ``areas`` are exported from the start, at 0. ``needs``
    are the groups of settings that it requires.
    """

    build: Callable[[Runtime], None]
    areas: tuple[Area, ...]
    needs: frozenset[Need] = frozenset({"amqp", "database"})
