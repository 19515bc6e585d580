# SPDX-License-Identifier: Apache-2.0
"""Starts orderflow with one seeded bug, in a way that the bug is certain to take effect.

``python -m tests.integration.faults.seeded_bugs BUG DEATHS FOLDER COMMAND…``: BUG is a name below or ``none``. The
first DEATHS processes that use FOLDER kill themselves just before the commit of a batch that publishes events. FOLDER
is also where processes meet at a barrier. Each bug is known from real systems.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pika.channel

from local.eventually import eventually
from orderflow.__main__ import main
from orderflow.messaging.broker import Batch, Consumer
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Outbox, OutboxChange
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.rabbitmq.consumer import RabbitConsumer
from orderflow.messaging.service import Transaction
from orderflow.services.inventory import store
from orderflow.services.inventory.domain import StockAllocator
from orderflow.services.payments.http_provider import HttpPaymentProvider
from orderflow.services.payments.provider import Declined, Unclear

_BARRIER_SECONDS = 60.0
_ROUND_TRIP_SECONDS = 20.0


def die_before_commit(folder: Path, deaths: int) -> None:
    """SIGKILL this process when a batch with events is written and not committed.

    A file in the folder stands for each death; when there are enough, the process lives.
    """
    if not _claim(folder, "death", deaths):
        return
    write = Outbox.write

    def dying(self: Outbox, transaction: Any, outgoing: Any) -> OutboxChange:
        draft = write(self, transaction, outgoing)
        if outgoing:
            os.kill(os.getpid(), signal.SIGKILL)
        return draft

    Outbox.write = dying  # type: ignore[method-assign]


def ack_before_commit(_folder: Path) -> None:
    """Acknowledge a batch when it arrives, as auto-ack does; continue once the broker has handled it."""
    settle = ConsumerLoop._settle

    class Acknowledged:
        """The consumer of a batch that is acknowledged already."""

        def __init__(self, consumer: Consumer) -> None:
            self._consumer = consumer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._consumer, name)

        def ack(self, batch: Batch) -> None:
            """Nothing is left to do."""

    def early(self: ConsumerLoop, batch: Batch) -> None:
        consumer = self._consumer
        consumer.ack(batch)
        assert isinstance(consumer, RabbitConsumer)
        _round_trip(consumer)
        self._consumer = Acknowledged(consumer)
        try:
            settle(self, batch)
        finally:
            self._consumer = consumer

    ConsumerLoop._settle = early  # type: ignore[method-assign]


def _round_trip(consumer: RabbitConsumer) -> None:
    """Return when the broker has handled everything that was sent on the consumer's channel before."""
    done = threading.Event()

    def ask() -> None:
        consumer._channel.basic_qos(prefetch_count=consumer._prefetch, callback=lambda _frame: done.set())

    consumer._loop.add_callback_threadsafe(ask)
    assert done.wait(_ROUND_TRIP_SECONDS)


def publish_before_commit(_folder: Path) -> None:
    """Publish events while their transaction is still open; continue once they are confirmed."""
    write = Outbox.write

    def early(self: Outbox, transaction: Any, outgoing: Any) -> OutboxChange:
        draft = write(self, transaction, outgoing)
        if draft.publications:
            self.publish(draft.publications)
            assert self.wait(_ROUND_TRIP_SECONDS)
        return msgspec.structs.replace(draft, dispatch=False)

    Outbox.write = early  # type: ignore[method-assign]


def inbox_outside_the_transaction(_folder: Path) -> None:
    """Write the inbox rows in a transaction of their own, which is committed before the effects."""
    claim = Inbox.claim
    database = Database(os.environ["ORDERFLOW_DATABASE_URL"])

    def outside(self: Inbox, transaction: Transaction, ids: Sequence[UUID]) -> set[UUID]:
        with database.transaction() as own:
            return claim(self, SqlUnitOfWork(own), ids)

    Inbox.claim = outside  # type: ignore[method-assign]


def publish_without_mandatory(_folder: Path) -> None:
    """Publish without ``mandatory``: an unroutable message is confirmed and lost."""
    publish = pika.channel.Channel.basic_publish

    def optional(self: Any, *arguments: Any, **options: Any) -> None:
        options["mandatory"] = False
        publish(self, *arguments, **options)

    pika.channel.Channel.basic_publish = optional  # type: ignore[method-assign]


def read_then_write_stock(folder: Path) -> None:
    """Read the stock without a lock, decide, and write absolute numbers.

    After its first read a process waits until the other has read too, so that both decide on the same numbers.
    """
    store._LOCK_STOCK = store._LOCK_STOCK.replace(" for update", "")
    load, seen = store.load, dict[str, store.Stock]()

    def reading(transaction: Transaction, ids: Iterable[UUID], skus: Iterable[str]) -> Any:
        allocator, stock = load(transaction, ids, skus)
        seen.clear()
        seen.update(stock)
        _meet(folder)
        return allocator, stock

    def writing(transaction: Transaction, allocator: StockAllocator) -> list[store.Stock]:
        changed = [allocator.reservations[order_id] for order_id in sorted(allocator.changed)]
        new = [item for item in changed if item.new]
        store._save_reservations(transaction, new, [item for item in changed if not item.new])
        if not allocator.movements:
            return []
        columns = store._ledger_columns(allocator.movements)
        transaction.execute(store._ADD_TO_LEDGER, columns | {"now": transaction.now})
        totals = store._sums(allocator.movements)
        after = []
        for sku, available, reserved, sold in zip(*totals.values(), strict=True):
            old = seen[sku]
            values = {
                "sku": sku,
                "available": old.available + available,
                "reserved": old.reserved + reserved,
                "sold": old.sold + sold,
            }
            after += transaction.execute(_ABSOLUTE, values)
        return [store.Stock(*row) for row in after]

    store.load, store.save = reading, writing  # type: ignore[assignment]


_ABSOLUTE = f"""
update stock set available = %(available)s, reserved = %(reserved)s, sold = %(sold)s, stock_version = stock_version + 1
where sku = %(sku)s returning {store._COLUMNS}
"""


def _meet(folder: Path) -> None:
    """A barrier: the first process, inside its transaction, waits for the second."""
    (folder / f"read-{os.getpid()}").touch()
    with suppress(TimeoutError):
        eventually(lambda: len(list(folder.glob("read-*"))) >= 2, _BARRIER_SECONDS, what="a second process")


def timeout_taken_as_failure(_folder: Path) -> None:
    """Treat a missing response of the provider as a decline."""
    charge = HttpPaymentProvider.charge

    async def guessing(self: HttpPaymentProvider, payment: Any) -> Any:
        result = await charge(self, payment)
        return Declined() if isinstance(result, Unclear) else result

    HttpPaymentProvider.charge = guessing  # type: ignore[method-assign]


def _claim(folder: Path, name: str, count: int) -> bool:
    """Create one of ``count`` numbered files; false when all exist."""
    for number in range(count):
        try:
            (folder / f"{name}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False


BUGS: dict[str, Callable[[Path], None]] = {
    "none": lambda _folder: None,
    "ack-before-commit": ack_before_commit,
    "publish-before-commit": publish_before_commit,
    "inbox-outside": inbox_outside_the_transaction,
    "not-mandatory": publish_without_mandatory,
    "read-then-write": read_then_write_stock,
    "timeout-is-failure": timeout_taken_as_failure,
}


if __name__ == "__main__":
    bug, number, place, *command = sys.argv[1:]
    BUGS[bug](Path(place))
    if int(number):
        die_before_commit(Path(place), int(number))
    sys.exit(main(command))
