# SPDX-License-Identifier: Apache-2.0
"""A short sale on a running system: stock, a load generator, malformed messages, and numbers while it runs."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Self

import pika
from pika.exceptions import AMQPError

from local.demo.load_generator import LoadGenerator, LoadRecord, Plan
from local.demo.poison import every_kind
from local.eventually import eventually
from local.system import System
from orderflow.events import EXCHANGE, OrderCreated
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.postgres.database import Database

TOKENS = {"ok": 0.86, "decline": 0.06, "slow": 0.03, "error_once": 0.02, "timeout_executed": 0.02, "never": 0.01}
_BLOCKED_SECONDS = 30
"""Longest wait for a broker that blocks publishing because its disk or memory is full."""
FINAL = ("confirmed", "rejected", "cancelled")

_STATE = """
select count(*) filter (where status not in ('confirmed', 'rejected', 'cancelled')),
       count(*) filter (where status = 'confirmed'),
       count(*) filter (where status = 'rejected'),
       count(*) filter (where status = 'cancelled')
from orders
"""
_RECENT = """
select coalesce(percentile_cont(0.95) within group (order by extract(epoch from final_at - accepted_at)), 0)::float8
from orders where final_at > now() - interval '10 seconds'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleProgress:
    """The state of a sale at one time. ``p95_seconds`` is from accepted to final, over the last ten seconds."""

    elapsed_seconds: float
    accepted: int
    open: int
    confirmed: int
    rejected: int
    cancelled: int
    p95_seconds: float


@dataclass(slots=True)
class Sale:
    """One sale and its record."""

    system: System
    plan: Plan
    poison_share: float = 0.0
    record: LoadRecord = field(default_factory=LoadRecord)
    planted: list[str] = field(default_factory=list)
    """The reason with which each planted poison message must be dead-lettered."""
    peak_open: int = 0
    _ended: bool = False
    _stop_orders: Callable[[], object] = field(default=lambda: None)

    def end(self) -> None:
        """End the sale early, also one that has not begun; may be called from any thread."""
        self._ended = True
        self._stop_orders()

    def run(self, show: Callable[[SaleProgress], None] = lambda _: None) -> None:
        """Place every order of the plan; ``show`` is called about once a second.

        Raises the error of the observing thread once the load generator has ended.
        """
        urls, key = self.system.orders_apis, self.system.orders_key
        generator = LoadGenerator(self.plan, urls=urls, key=key, record=self.record)
        finished = threading.Event()

        async def order() -> None:
            loop = asyncio.get_running_loop()

            self._stop_orders = lambda: loop.call_soon_threadsafe(generator.stop.set)
            if self._ended:
                generator.stop.set()
            await generator.run()

        with ThreadPoolExecutor(1, thread_name_prefix="observe the sale") as pool:
            observing = pool.submit(self._observe, finished, show)
            try:
                asyncio.run(order())
            finally:
                finished.set()
        observing.result()

    def run_until(
        self,
        fault: Callable[[], object],
        *,
        interrupt: Callable[[], object] = lambda: None,
        show: Callable[[SaleProgress], None] = lambda _: None,
    ) -> None:
        """Place orders until ``fault``, which runs in a thread of its own, has returned; raises what it raised.

        When the orders cannot be placed, ``interrupt`` is called, and the fault is waited for.
        """

        def act() -> None:
            try:
                fault()
            finally:
                self.end()

        with ThreadPoolExecutor(1, thread_name_prefix="fault") as pool:
            acting = pool.submit(act)
            try:
                self.run(show)
            except BaseException:
                interrupt()
                raise
        acting.result()

    def drain(self, *, seconds: float, show: Callable[[SaleProgress], None] = lambda _: None) -> bool:
        """Wait until every order is final; false when some are not after that many seconds."""
        database = Database(self.system.databases["orders"], application_name="sale")
        start = time.monotonic()

        def all_final() -> bool:
            progress = self._progress(database, start)
            show(progress)
            return progress.open == 0

        try:
            eventually(all_final, seconds, what="every order is final", pause=0.5)
        except TimeoutError:
            return False
        finally:
            database.close()
        return True

    def _observe(self, finished: threading.Event, show: Callable[[SaleProgress], None]) -> None:
        database = Database(self.system.databases["orders"], application_name="sale")
        start = time.monotonic()
        with ExitStack() as closing:
            closing.callback(database.close)
            poisoner = closing.enter_context(_Poisoner(self.system, self.planted)) if self.poison_share else None
            while not finished.wait(1):
                if poisoner is not None:
                    poisoner.plant(round(self.record.sent * self.poison_share) - len(self.planted))
                with suppress(InfrastructureError):  # a fault test may stop the database; the sale goes on
                    show(self._progress(database, start))

    def _progress(self, database: Database, start: float) -> SaleProgress:
        with database.transaction() as transaction:
            ((unfinished, confirmed, rejected, cancelled),) = transaction.execute(_STATE)
            ((p95,),) = transaction.execute(_RECENT)
        self.peak_open = max(self.peak_open, unfinished)
        return SaleProgress(
            elapsed_seconds=time.monotonic() - start,
            accepted=len(self.record.accepted),
            open=unfinished,
            confirmed=confirmed,
            rejected=rejected,
            cancelled=cancelled,
            p95_seconds=p95,
        )


class _Poisoner:
    """Publishes malformed messages with the routing key of new orders, one kind after another."""

    def __init__(self, system: System, planted: list[str]) -> None:
        self._url = system.admin_url
        self._planted = planted
        self._kinds = list(every_kind())

    def __enter__(self) -> Self:
        parameters = pika.URLParameters(self._url)
        parameters.blocked_connection_timeout = _BLOCKED_SECONDS
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            self._connection.close()

    def plant(self, count: int) -> None:
        """Publish that many and keep the connection alive; raises RuntimeError when the broker accepts none."""
        try:
            for _ in range(count):
                poison = self._kinds[len(self._planted) % len(self._kinds)]
                self._channel.basic_publish(
                    EXCHANGE, OrderCreated.routing_key, poison.body, poison.properties, mandatory=True
                )
                self._planted.append(poison.reason)
            self._connection.process_data_events(0)
        except AMQPError as error:
            raise RuntimeError(f"the broker accepts no messages (is its disk full?): {error!r}") from error


def put_stock(system: System, stock: Mapping[str, int]) -> None:
    """Set the stock of each SKU and wait until the orders API has its price."""
    for sku, on_hand in stock.items():
        system.set_stock(sku, on_hand)
    database = Database(system.databases["orders"], application_name="sale")

    def known() -> bool:
        with database.transaction() as transaction:
            return stock.keys() <= {row[0] for row in transaction.execute("select sku from availability")}

    try:
        eventually(known, 30, what=f"the orders service has the prices of {sorted(stock)}", pause=0.1)
    finally:
        database.close()
