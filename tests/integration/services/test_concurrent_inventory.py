# SPDX-License-Identifier: Apache-2.0
"""Two consumers of inventory on one database: they wait for each other only when they must, and sell nothing twice."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from orderflow.events import InventoryRejected
from orderflow.messaging.errors import TransactionAborted
from orderflow.messaging.postgres.database import Database
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork
from orderflow.messaging.service import Incoming
from tests.rigs.database_locks import wait_for_a_lock
from tests.rigs.inventory import a_handler, cancelled, confirmed, counts, created, handle, put

pytestmark = pytest.mark.integration


def test_expired_orders_lock_no_stock(inventory: Database, database: str) -> None:
    put(inventory, a=1)
    late = created(uuid4(), deadline=datetime.now(UTC) - timedelta(seconds=1))
    other = Database(database, statement_timeout_seconds=2)
    with inventory.transaction() as transaction:
        transaction.execute("select from stock for update")
        ((rejection,), _) = handle(other, late)
    other.close()
    assert isinstance(rejection, InventoryRejected)


def test_two_consumers_never_sell_the_same_unit(inventory: Database, database: str) -> None:
    put(inventory, a=100)

    def buy() -> None:
        own = Database(database)
        for _ in range(60):
            handle(own, created(uuid4()))
        own.close()

    threads = [threading.Thread(target=buy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(inventory) == (0, 100, 0)


def test_two_consumers_with_events_of_one_order_wait_for_each_other(inventory: Database, database: str) -> None:
    put(inventory, a=10)
    order = uuid4()
    handler = a_handler()
    concurrent = Database(database)
    failed: list[BaseException] = []

    def cancel() -> None:
        try:
            handle(concurrent, cancelled(order))
        except TransactionAborted as error:
            failed.append(error)

    with inventory.transaction() as transaction:
        handler.handle([Incoming(uuid4(), created(order, ("a", 3)), 0)], SqlUnitOfWork(transaction))
        thread = threading.Thread(target=cancel)
        thread.start()
        wait_for_a_lock(database)
    thread.join(30)
    assert not thread.is_alive()
    assert len(failed) == 1  # the core then repeats the batch
    handle(concurrent, cancelled(order))
    concurrent.close()
    assert counts(inventory) == (10, 0, 0)


def test_what_is_being_sold_is_not_released_as_well(inventory: Database, database: str) -> None:
    put(inventory, a=10)
    order = uuid4()
    # The second order's units would hide a release of the first one's from the table's own checks.
    handle(inventory, created(order, ("a", 3)), created(uuid4(), ("a", 3)))
    handler = a_handler()
    concurrent = Database(database)
    thread = threading.Thread(target=lambda: handle(concurrent, cancelled(order)))
    with inventory.transaction() as transaction:
        handler.handle([Incoming(uuid4(), confirmed(order), 0)], SqlUnitOfWork(transaction))
        thread.start()
        wait_for_a_lock(database)
    thread.join(30)
    assert not thread.is_alive()
    concurrent.close()
    assert counts(inventory) == (4, 3, 3)
