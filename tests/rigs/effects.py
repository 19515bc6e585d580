# SPDX-License-Identifier: Apache-2.0
"""A service that consumes messages and calls an external system, with a real database and a scripted broker."""

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Self

from orderflow.messaging.clock import SystemClock
from orderflow.messaging.consume.batch_processor import BatchProcessor, BatchProgress
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.effects import Effect, EffectRunner
from orderflow.messaging.event import Event
from orderflow.messaging.instrumentation import BatchObserver, MessagingInstrumentation
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.postgres.instance import Instance
from orderflow.messaging.publish.outbox import Outbox
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory
from orderflow.messaging.service import Handler, Service
from tests.builders import a_codec
from tests.rigs.consumer import query
from tests.rigs.scripted_broker import ScriptedPublisher, deliver

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class CountingUnitOfWorkFactory(UnitOfWorkFactory):
    """Adds up the statements of all transactions, begin and commit included."""

    statements = 0

    @contextmanager
    def transaction(self, *, before_commit: Callable[[], None] | None = None) -> Generator[SqlUnitOfWork]:
        with super().transaction(before_commit=before_commit) as work:
            yield work
        self.statements += work.statements


class Traced(BatchObserver):
    """A batch whose messages all belong to one trace."""

    def headers(self, position: int) -> dict[str, str]:
        return TRACE


class Circuits(MessagingInstrumentation):
    """Remembers when calls were suspended and went on."""

    def __init__(self) -> None:
        self.states: list[bool] = []

    def circuit(self, effects: str, *, is_open: bool) -> None:
        self.states.append(is_open)


class EffectsRig:
    """A service of one queue and one kind of call: ``receive`` is its consumer, the context runs its calls."""

    def __init__(
        self,
        service: Service,
        url: str,
        effects: Effect[Any, Any],
        handler: Callable[[Callable[[], None]], Handler],
        *,
        concurrency: int,
        lease_seconds: float,
    ) -> None:
        """``handler`` creates the consumer's handler from the function that wakes the calls."""
        (queue,) = service.queues
        self.reports = Circuits()
        codec = a_codec(service.name)
        self.url = url
        self.publisher = ScriptedPublisher()
        outbox = Outbox(self.publisher, codec, lease_seconds=60)
        instance = Instance(service.name, service.name)
        database = Database(url, application_name=f"{service.name} calls", instance=instance)
        self.work = CountingUnitOfWorkFactory(database, outbox)
        self.runner = EffectRunner[Any, Any](
            service.name,
            effects,
            self.work,
            clock=SystemClock(),
            instrumentation=self.reports,
            concurrency=concurrency,
            lease_seconds=lease_seconds,
        )
        self.handler = handler(self.runner.wake)
        self.consuming = UnitOfWorkFactory(
            Database(url, instance=instance), Outbox(self.publisher, codec, lease_seconds=60)
        )
        self._attempt = BatchProcessor(
            handler=self.handler,
            accepted=queue.events,
            codec=codec,
            inbox=Inbox(queue.name),
            units_of_work=self.consuming,
        )
        self._thread = threading.Thread(target=self.runner.run, name=f"{service.name} effects")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()
        self._thread.join(20)
        self.consuming.close()
        assert not self._thread.is_alive()

    def close(self) -> None:
        """Close the connections, for a service that was never started."""
        self.work.close()
        self.consuming.close()

    def receive(self, *events: Event) -> BatchProgress:
        """Handle one batch of messages, as the consumer does."""
        return self._attempt([deliver(event) for event in events], Traced())

    def states(self, table: str) -> Counter[str]:
        """The number of rows of a table in each state."""
        return Counter(state for (state,) in query(self.url, f"select state from {table}"))
