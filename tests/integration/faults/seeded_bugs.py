# SPDX-License-Identifier: Apache-2.0
"""Starts orderflow with one bug seeded, and optionally dying now and then just before a commit.

``python -m tests.integration.faults.seeded_bugs BUG DEATHS COMMAND…``: BUG is a name below or ``none``; DEATHS the
share of transactions with events before whose commit the process kills itself. Each bug is one that was really written
somewhere.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import pika.channel

from orderflow.__main__ import main
from orderflow.messaging.broker import Batch, Consumer
from orderflow.messaging.consume.inbox import Inbox
from orderflow.messaging.consume.loop import ConsumerLoop
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.outbox import Draft, Outbox
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Transaction
from orderflow.services.inventory import store
from orderflow.services.inventory.domain import StockAllocator
from orderflow.services.payments.http_provider import HttpPaymentProvider
from orderflow.services.payments.provider import Declined, Unclear

_WIRE_SECONDS = 0.05
"""Long enough for what was handed to the I/O thread to reach the broker before the process dies."""


def die_before_commits(share: float) -> None:
    """SIGKILL this process in that share of the transactions, when everything is written and nothing committed."""
    write, chance = Outbox.write, random.Random()

    def dying(self: Outbox, transaction: Any, outgoing: Any) -> Draft:
        draft = write(self, transaction, outgoing)
        if outgoing and chance.random() < share:
            time.sleep(_WIRE_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)
        return draft

    Outbox.write = dying  # type: ignore[method-assign]


def ack_before_commit() -> None:
    """Acknowledge a batch when it arrives, as auto-ack does."""
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
        self._consumer = Acknowledged(consumer)
        try:
            settle(self, batch)
        finally:
            self._consumer = consumer

    ConsumerLoop._settle = early  # type: ignore[method-assign]


def publish_before_commit() -> None:
    """Publish events while their transaction is still open."""
    write = Outbox.write

    def early(self: Outbox, transaction: Any, outgoing: Any) -> Draft:
        draft = write(self, transaction, outgoing)
        if draft.publications:
            self.publish(draft.publications)
        return Draft(draft.publications, draft.deleted, dispatch=False)

    Outbox.write = early  # type: ignore[method-assign]


def inbox_outside_the_transaction() -> None:
    """Mark messages as handled in a transaction of its own, committed before the work is."""
    claim = Inbox.claim
    database = Database(os.environ["ORDERFLOW_DATABASE_URL"])

    def outside(self: Inbox, transaction: Transaction, ids: Sequence[UUID]) -> set[UUID]:
        with database.transaction() as own:
            return claim(self, SqlUnitOfWork(own), ids)

    Inbox.claim = outside  # type: ignore[method-assign]


def publish_without_mandatory() -> None:
    """Take a confirm for delivery: an unroutable message is confirmed and gone."""
    publish = pika.channel.Channel.basic_publish

    def optional(self: Any, *arguments: Any, **options: Any) -> None:
        options["mandatory"] = False
        publish(self, *arguments, **options)

    pika.channel.Channel.basic_publish = optional  # type: ignore[method-assign]


def read_then_write_stock() -> None:
    """Read the stock without a lock, decide, and write the numbers that came out."""
    store._LOCK_STOCK = store._LOCK_STOCK.replace(" for update", "")
    load, seen = store.load, dict[str, store.Stock]()

    def reading(transaction: Transaction, ids: Iterable[UUID], skus: Iterable[str]) -> Any:
        allocator, stock = load(transaction, ids, skus)
        seen.clear()
        seen.update(stock)
        time.sleep(0.01)
        return allocator, stock

    def writing(transaction: Transaction, allocator: StockAllocator) -> list[store.Stock]:
        changed = [allocator.reservations[order_id] for order_id in sorted(allocator.changed)]
        new = [item for item in changed if item.new]
        store._save_reservations(transaction, new, [item for item in changed if not item.new])
        if not allocator.movements:
            return []
        transaction.execute(store._ADD_TO_LEDGER, store._ledger_columns(allocator.movements) | {"now": transaction.now})
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


def timeout_taken_as_failure() -> None:
    """Take silence of the provider for a no."""
    charge = HttpPaymentProvider.charge

    async def guessing(self: HttpPaymentProvider, payment: Any) -> Any:
        answer = await charge(self, payment)
        return Declined() if isinstance(answer, Unclear) else answer

    HttpPaymentProvider.charge = guessing  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "ack-before-commit": ack_before_commit,
    "publish-before-commit": publish_before_commit,
    "inbox-outside": inbox_outside_the_transaction,
    "not-mandatory": publish_without_mandatory,
    "read-then-write": read_then_write_stock,
    "timeout-is-failure": timeout_taken_as_failure,
}


if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    if float(sys.argv[2]) > 0:
        die_before_commits(float(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
