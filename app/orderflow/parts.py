# SPDX-License-Identifier: Apache-2.0
"""What every process of a service is made of, put together from its settings."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files

from orderflow.http.reader import ANSWER_SECONDS, Reader
from orderflow.messaging import inbox
from orderflow.messaging.attempt import Attempt
from orderflow.messaging.backoff import Backoff
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.codec import Codec
from orderflow.messaging.consumer import BatchLimits, ConsumerLoop
from orderflow.messaging.database import Database, migrate
from orderflow.messaging.errors import DatabaseUnavailable
from orderflow.messaging.inbox import Inbox
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.periodic import Periodic
from orderflow.messaging.rabbitmq import RabbitMQ
from orderflow.messaging.relay import Relay
from orderflow.messaging.retry import RetryPolicy
from orderflow.messaging.service import Handler, Service
from orderflow.messaging.unit_of_work import UnitOfWork, Work
from orderflow.process import Process
from orderflow.settings import Settings
from orderflow.telemetry.start import Telemetry
from orderflow.topology import work_queues

log = logging.getLogger(__name__)

_HOUR = 3600.0


class Parts:
    """What every process of a service shares, and how further parts are put together from it."""

    def __init__(self, name: str, service: Service, settings: Settings, telemetry: Telemetry) -> None:
        self.name = name
        self.service = service
        self.settings = settings
        self.telemetry = telemetry
        self.clock: Clock = SystemClock()
        self._databases: list[Database] = []
        self._readers: list[Reader] = []
        self.process = Process(name, clock=self.clock, drain_timeout_seconds=settings.drain_timeout_seconds)
        self.codec = Codec(
            app_id=service.name,
            compression=settings.compression,
            threshold_bytes=settings.compression_threshold_bytes,
            limit_bytes=settings.max_message_bytes,
        )
        self.broker = RabbitMQ(
            settings.amqp_url,
            window=settings.publish_window,
            hooks=telemetry.hooks,
            clock=self.clock,
            connection_name=f"orderflow {name}",
        )

    def database(self, *, statement_timeout_seconds: float = 30) -> Database:
        """A database connection for one thread."""
        database = Database(
            self.settings.database_url,
            application_name=f"orderflow {self.name}",
            statement_timeout_seconds=statement_timeout_seconds,
        )
        self._databases.append(database)
        return database

    def database_failing(self) -> bool:
        """True when the last that was heard of the database, on whichever connection, is that it is not there.

        A connection that nobody uses cannot tell that the database is back; the relay's does, within seconds.
        """
        failed = max((database.failed_at for database in self._databases), default=0.0)
        return failed > max((database.committed_at for database in self._databases), default=0.0)

    def reader(self) -> Reader:
        """The reads of an API. None takes longer than its client waits, or a few would hold up all others."""
        reader = Reader(partial(self.database, statement_timeout_seconds=ANSWER_SECONDS))
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        """End what no loop ends: reads that nobody waits for, and the connections to the broker."""
        for reader in self._readers:
            reader.close()
        self.broker.close(timeout_seconds=5)

    def unit_of_work(self) -> UnitOfWork:
        """A unit of work for one thread."""
        lease = self.settings.outbox_lease_seconds
        return UnitOfWork(self.database(), Outbox(self.broker.publisher(), self.codec, lease_seconds=lease))

    def consumers(self, queue_name: str, handler: Callable[[], Handler]) -> Iterator[ConsumerLoop]:
        """A loop for each partition of a declared queue, each with a handler of its own."""
        settings = self.settings
        queue = next(queue for queue in self.service.queues if queue.name == queue_name)
        for name in work_queues(queue):
            yield ConsumerLoop(
                consumer=self.broker.consumer(name, prefetch=settings.prefetch, ordered=queue.partitions > 1),
                publisher=self.broker.publisher(),
                attempt=Attempt(
                    handler=handler(),
                    accepted=queue.events,
                    codec=self.codec,
                    inbox=Inbox(queue.name),
                    unit_of_work=self.unit_of_work(),
                ),
                policy=RetryPolicy(settings.retry_max_attempts, settings.retry_max_age_seconds),
                hooks=self.telemetry.hooks,
                clock=self.clock,
                limits=BatchLimits(
                    messages=settings.batch_size,
                    size_bytes=settings.batch_bytes,
                    linger_seconds=settings.batch_linger_seconds,
                ),
            )

    def relay(self) -> Relay:
        """The recovery relay of this service's outbox."""
        return Relay(
            publisher=self.broker.publisher(),
            unit_of_work=self.unit_of_work(),
            hooks=self.telemetry.hooks,
            clock=self.clock,
            interval_seconds=self.settings.relay_interval_seconds,
            lease_seconds=self.settings.outbox_lease_seconds,
        )

    def periodic(self, name: str, seconds: float, action: Callable[[Work], bool | None]) -> Periodic:
        """A transaction that is repeated every so many seconds, in a thread of its own."""
        unit_of_work = self.unit_of_work()

        def act() -> bool | None:
            with unit_of_work.transaction() as work:
                return action(work)

        return Periodic(name, seconds, act, clock=self.clock, close=unit_of_work.close)

    def prune_inbox(self) -> Periodic:
        """Forgets messages that are older than the retention, every hour."""
        days = self.settings.inbox_retention_days
        return self.periodic("prune inbox", _HOUR, partial(inbox.prune, retention_days=days))


def scripts(service: Service) -> list[tuple[str, str]]:
    """The SQL scripts of a service's database, by name, in the order in which they are applied."""
    names = ("orderflow.messaging", f"orderflow.services.{service.name}")
    return [(name, files(name).joinpath("schema.sql").read_text()) for name in names]


def prepare_database(parts: Parts) -> bool:
    """Wait for the database and bring its tables up to date; false when the process was stopped meanwhile."""
    backoff, database = Backoff(first=0.2, most=5), parts.database()
    try:
        while not parts.process.stopping.is_set():
            try:
                applied = migrate(database, scripts(parts.service))
            except DatabaseUnavailable as error:
                log.warning("database.waiting", extra={"error": str(error)})
                parts.clock.wait(parts.process.stopping, backoff.next())
            else:
                log.info("database.ready", extra={"applied": applied})
                return True
    finally:
        database.close()
    return False
