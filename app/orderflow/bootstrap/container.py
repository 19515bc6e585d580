# SPDX-License-Identifier: Apache-2.0
"""The parts of a service's process, made from its settings; implements ``runtime.Runtime``."""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from orderflow.bootstrap.process import Process
from orderflow.broker_topology import work_queues
from orderflow.broker_users import BrokerUsers
from orderflow.events import EXCHANGE, decode
from orderflow.http.api_keys import ApiKeys
from orderflow.http.asgi import Application
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.codec import Codec
from orderflow.messaging.consume.batch_processor import BatchProcessor
from orderflow.messaging.consume.inbox import Inbox, PrunedInbox
from orderflow.messaging.consume.loop import BatchLimits, ConsumerLoop
from orderflow.messaging.consume.settlement import RetryPolicy
from orderflow.messaging.effects import Effect, EffectRunner
from orderflow.messaging.lease_sweeper import INTERVAL_SECONDS, LeaseSweeper
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.postgres.connection_watchdog import ConnectionWatchdog
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.instance import Instance
from orderflow.messaging.pruning import STATEMENT_SECONDS, Pruner
from orderflow.messaging.publish import outbox
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.relay import Relay
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from orderflow.messaging.rabbitmq.broker import RabbitMQBroker
from orderflow.messaging.service import BACKGROUND_FACTOR, Handler, Prunable, Service
from orderflow.partition_counts import PartitionCounts
from orderflow.runtime import Loop
from orderflow.settings import Settings
from orderflow.telemetry.setup import Telemetry

if TYPE_CHECKING:
    from orderflow.http.early_refusal import EarlyRefusal
    from orderflow.http.rate_limit import RateLimit
    from orderflow.messaging.postgres.read_pool import ReadPool

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")
_RARE_SECONDS = 60.0
"""Work that comes less often keeps no connection in between."""


class Container:
    """The parts that every process of a service has, and a factory of the others."""

    def __init__(
        self, name: str, service: Service, settings: Settings, telemetry: Telemetry, users: BrokerUsers
    ) -> None:
        self.name = name
        self.service = service
        self.settings = settings
        self.partitions = PartitionCounts(settings.partitions, users.services)
        self.telemetry = telemetry
        self.clock: Clock = SystemClock()
        self._connection_watchdog = ConnectionWatchdog()
        self._databases: list[Database] = []
        self._read_pools: list[ReadPool] = []
        self._instance = Instance(service.name, name)
        self._wake: list[Callable[[], None]] = []
        self._inbox_is_pruned = False
        self.process = Process(name, clock=self.clock, drain_timeout_seconds=settings.drain_timeout_seconds)
        self.codec = Codec(
            app_id=service.name,
            exchange=EXCHANGE,
            decode=decode,
            compression=settings.compression,
            threshold_bytes=settings.compression_threshold_bytes,
            limit_bytes=settings.max_message_bytes,
            publishers=users.check(service.name),
        )
        self.broker = RabbitMQBroker(
            settings.amqp_url,
            window=settings.publish_window,
            instrumentation=telemetry.instrumentation,
            clock=self.clock,
            connection_name=f"orderflow {name}",
            user_id=users.own,
        )

    @property
    def instrumentation(self) -> Instrumentation:
        """Receives the reports of the process."""
        return self.telemetry.instrumentation

    def start(self) -> None:
        """Begin to connect to the broker, and to watch the connections to the database."""
        self._connection_watchdog.start()
        self.broker.start()

    def add(self, *loops: Loop) -> None:
        """Run these loops, and stop them together. Loops added first are stopped first."""
        self.process.add(*loops)

    def api_keys(self) -> ApiKeys | None:
        """The configured API keys; None when keys are switched off."""
        return None if self.settings.api_auth == "off" else ApiKeys.parse(self.settings.api_keys)

    def rate_limit(self) -> "RateLimit | None":
        """The limit of each client's requests; None without one."""
        from orderflow.http.rate_limit import RateLimit

        per_second, burst = self.settings.http_rate_limit, self.settings.http_rate_burst
        if not per_second:
            return None
        return RateLimit(per_second=per_second, burst=burst, clock=self.clock, instrumentation=self.instrumentation)

    def serve_http(self, application: Application, early_refusal: "EarlyRefusal | None" = None) -> None:
        """Serve an ASGI application at the configured address; raises OSError when its port is taken.

        When the process stops, requests are still served for the lame-duck time; each response closes its connection.
        """
        from orderflow.http.connections import ConnectionLimits
        from orderflow.http.server import HttpServer

        limits = ConnectionLimits(
            connections=self.settings.http_connections,
            head_bytes=self.settings.http_head_bytes,
            request_seconds=self.settings.http_request_seconds,
            idle_seconds=self.settings.http_idle_seconds,
        )
        server = HttpServer(
            application,
            self.settings.http_host,
            self.settings.http_port,
            clock=self.clock,
            limits=limits,
            instrumentation=self.instrumentation,
            early_refusal=early_refusal,
        )
        log.info("http.listening", extra={"host": self.settings.http_host, "port": server.port})

        def lame_duck() -> None:
            server.begin_lame_duck()
            self.clock.wait(self.process.second_signal, self.settings.lame_duck_seconds)

        self.process.before_stop(lame_duck)
        self.process.add(server)

    def database(
        self, *, leasing: bool = False, by_key: bool = True, statement_timeout_seconds: float = 30
    ) -> Database:
        """A database connection for one thread. ``leasing`` is done as this process; ``by_key``: see ``Database``."""
        database = Database(
            self.settings.database_url,
            application_name=f"orderflow {self.name}",
            statement_timeout_seconds=statement_timeout_seconds,
            durable=self.settings.accept_data_loss != "on",
            by_key=by_key,
            instance=self._instance if leasing else None,
        )
        self._databases.append(database)
        self._connection_watchdog.watch(database)
        return database

    def database_failing(self) -> bool:
        """True when the last transaction on any connection failed because the database was unavailable.

        An unused connection does not show that the database is available again. The relay's connection shows it within
        seconds.
        """
        connections: list[Database | ReadPool] = [*self._databases, *self._read_pools]
        failed = max((connection.failed_at for connection in connections), default=0.0)
        return failed > max((connection.committed_at for connection in connections), default=0.0)

    def read_pool(self, *, timeout_seconds: float) -> "ReadPool":
        """A pool for the queries of an API. ``timeout_seconds`` limits each query, so slow ones do not block others."""
        from orderflow.messaging.postgres.read_pool import ReadPool

        name = f"orderflow {self.name}"
        pool = ReadPool(self.settings.database_url, application_name=name, timeout_seconds=timeout_seconds)
        self._read_pools.append(pool)
        self._connection_watchdog.watch(pool)
        return pool

    def close(self) -> None:
        """End what no loop ends: the read pools and the connections to the broker."""
        for pool in self._read_pools:
            pool.close()
        self.broker.close(timeout_seconds=5)
        self._connection_watchdog.stop()

    def unit_of_work(self) -> UnitOfWorkFactory:
        """A unit of work for one thread."""
        outbox = Outbox(
            self.broker.publisher(),
            self.codec,
            lease_seconds=self.settings.outbox_lease_seconds,
            park_seconds=self.settings.outbox_park_seconds,
            instrumentation=self.instrumentation,
        )
        return UnitOfWorkFactory(self.database(leasing=True), outbox)

    def consumers(self, queue_name: str, handler: Callable[[], Handler]) -> Iterator[Loop]:
        """A loop for each partition of a declared queue, of each count that the settings name.

        The first call also returns the loop that prunes the inbox.
        """
        settings = self.settings
        if not self._inbox_is_pruned:
            self._inbox_is_pruned = True
            yield self._prune_inbox()
        declared = next(queue for queue in self.service.queues if queue.name == queue_name)
        several = self.partitions.consumed(declared)
        for queue, name in [(each, name) for each in several for name in work_queues(each)]:
            yield ConsumerLoop(
                consumer=self.broker.consumer(
                    name,
                    prefetch=settings.prefetch,
                    ordered=queue.partitions > 1,
                    suspended=True,
                    optional=len(several) > 1,
                ),
                publisher=self.broker.publisher(),
                processor=BatchProcessor(
                    handler=handler(),
                    accepted=queue.events,
                    codec=self.codec,
                    inbox=Inbox(queue.name),
                    units_of_work=self.unit_of_work(),
                ),
                policy=RetryPolicy(settings.retry_max_attempts, settings.retry_max_age_seconds),
                instrumentation=self.instrumentation,
                clock=self.clock,
                limits=BatchLimits(
                    messages=settings.batch_size,
                    size_bytes=settings.batch_bytes,
                    linger_seconds=settings.batch_linger_seconds * (BACKGROUND_FACTOR if queue.background else 1),
                ),
            )

    def relay(self) -> Relay:
        """The recovery relay of this service's outbox."""
        relay = Relay(
            publisher=self.broker.publisher(),
            unit_of_work=self.unit_of_work(),
            instrumentation=self.instrumentation,
            clock=self.clock,
            interval_seconds=self.settings.relay_interval_seconds,
            lease_seconds=self.settings.outbox_lease_seconds,
        )
        self._wake.append(relay.wake)
        return relay

    def effect_runner(
        self, name: str, effects: Effect[Task, Result], *, concurrency: int, lease_seconds: float
    ) -> EffectRunner[Task, Result]:
        """The loop of one kind of call to the outside."""
        runner = EffectRunner(
            name,
            effects,
            self.unit_of_work(),
            clock=self.clock,
            instrumentation=self.instrumentation,
            concurrency=concurrency,
            lease_seconds=lease_seconds,
        )
        self._wake.append(runner.wake)
        return runner

    def lease_sweeper(self) -> Loop:
        """The loop that ends the leases of processes that are gone, and wakes what was made here to go on with them."""
        database = self.database(leasing=True)
        sweeper = LeaseSweeper(
            database,
            (outbox.LEASED, *self.service.leased),
            own=self._instance,
            wake=self._wake,
            instrumentation=self.instrumentation,
            clock=self.clock,
        )
        return Periodic("sweep leases", INTERVAL_SECONDS, sweeper.sweep, clock=self.clock, close=database.close)

    def periodic(self, name: str, seconds: float, action: Callable[[SqlUnitOfWork], bool | None]) -> Periodic:
        """A loop that runs ``action`` in a transaction every ``seconds``; immediately again when it returned True."""
        unit_of_work = self.unit_of_work()

        def act() -> bool | None:
            with unit_of_work.transaction() as work:
                again = action(work)
            if seconds >= _RARE_SECONDS and not again:
                unit_of_work.close()
            return again

        return Periodic(name, seconds, act, clock=self.clock, close=unit_of_work.close)

    def pruner(self, name: str, *prunables: Prunable) -> Periodic:
        """A loop that deletes old rows a page at a time, in one process of the service at a time."""
        database = self.database(statement_timeout_seconds=STATEMENT_SECONDS)
        return Pruner(database, prunables, instrumentation=self.instrumentation).loop(name, clock=self.clock)

    def _prune_inbox(self) -> Periodic:
        days = self.settings.inbox_retention_days
        return self.pruner("prune inbox", *[PrunedInbox(q.name, retention_days=days) for q in self.service.queues])
