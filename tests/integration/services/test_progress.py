# SPDX-License-Identifier: Apache-2.0
"""How far the decisions of orders have come, read from real tables."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from orderflow.messaging.postgres.database import SqlTransaction
from orderflow.services.orders.progress import WINDOW_SECONDS, Progress, ProgressReader, Step
from tests.rigs.service_database import service_database

pytestmark = pytest.mark.integration

_ADD = """
insert into orders (order_id, user_id, items, total_amount, currency, status, accepted_at, hold_until, reserved_at,
                    final_at, trace)
select gen_random_uuid(), 'u', '[]', 1, 'EUR', %(status)s, %(accepted)s, %(accepted)s, %(reserved)s, %(final)s, '{}'
"""


class Table:
    """The table of orders at one moment; ages are in seconds before it."""

    def __init__(self, transaction: SqlTransaction) -> None:
        self._transaction = transaction

    def add(self, status: str, *, age: float, reserved: bool = False, final: float | None = None) -> None:
        """Add an order accepted ``age`` seconds ago, and final ``final`` seconds ago."""
        now = self._transaction.now
        accepted = now - timedelta(seconds=age)
        self._transaction.execute(
            _ADD,
            {
                "status": status,
                "accepted": accepted,
                "reserved": accepted if reserved else None,
                "final": None if final is None else now - timedelta(seconds=final),
            },
        )

    def look(self, reader: ProgressReader | None = None) -> Progress:
        """What a look finds now."""
        return (reader or ProgressReader())(self._transaction)


@pytest.fixture
def table(database: str) -> Iterator[Table]:
    with service_database(database, "orders") as opened, opened.transaction() as transaction:
        yield Table(transaction)


def test_without_orders_nothing_waits(table: Table) -> None:
    assert table.look() == Progress()


def test_the_oldest_order_that_waits_for_each_step_gives_its_age(table: Table) -> None:
    table.add("accepted", age=3)
    table.add("accepted", age=8)
    table.add("reserved", age=20, reserved=True)
    table.add("reserved", age=12, reserved=True)
    found = table.look()
    assert (found.reservation.waiting, found.reservation.age_seconds) == (2, 8)
    assert (found.payment.waiting, found.payment.age_seconds) == (2, 20)


def test_an_order_that_was_overtaken_says_nothing_about_the_next_one(table: Table) -> None:
    table.add("reserved", age=90, reserved=True)  # its customer pays slowly
    table.add("accepted", age=80)  # its message is retried
    table.add("confirmed", age=1, reserved=True, final=0.4)
    found = table.look()
    assert (found.reservation.waiting, found.payment.waiting) == (0, 0)


def test_a_rejected_reservation_is_no_progress_of_payments(table: Table) -> None:
    table.add("reserved", age=15, reserved=True)
    table.add("rejected", age=1, final=0.8)  # sold out
    assert table.look() == Progress(reservation=Step(per_second=1.25), payment=Step(waiting=1, age_seconds=15))


def test_a_declined_payment_is_progress_of_payments(table: Table) -> None:
    table.add("reserved", age=15, reserved=True)
    table.add("rejected", age=1, reserved=True, final=0.8)
    assert table.look().payment == Step(per_second=1.25)


def test_a_cancelled_order_is_no_progress(table: Table) -> None:
    table.add("accepted", age=15)
    table.add("cancelled", age=1, final=0.1)
    assert table.look() == Progress(reservation=Step(waiting=1, age_seconds=15))


def test_the_frontier_is_kept_when_the_decisions_that_moved_it_are_no_longer_recent(table: Table) -> None:
    reader = ProgressReader()
    table.add("reserved", age=90, reserved=True)
    table.add("confirmed", age=60, reserved=True, final=WINDOW_SECONDS / 2)
    assert table.look(reader).payment.waiting == 0
    table._transaction.execute("update orders set final_at = final_at - interval '1 hour' where final_at is not null")
    assert table.look(reader).payment.waiting == 0
    assert table.look().payment.age_seconds == 90


def test_the_rate_of_a_step_that_goes_on_after_a_pause_is_that_of_the_time_since_then(table: Table) -> None:
    for final in (0.2, 0.4, 0.6, 0.8):
        for _ in range(20):
            table.add("confirmed", age=1, reserved=True, final=final)
    assert table.look().payment.per_second == 100


def test_a_batch_that_was_just_completed_is_not_taken_for_a_rate(table: Table) -> None:
    for _ in range(20):
        table.add("confirmed", age=1, reserved=True, final=0.01)
    assert table.look().payment.per_second == 40


def test_a_reservation_counts_when_it_is_made_and_a_payment_when_the_order_is_decided(table: Table) -> None:
    for _ in range(8):
        table.add("reserved", age=0.2, reserved=True)
    for _ in range(4):
        table.add("confirmed", age=1, reserved=True, final=0.8)
    table.add("confirmed", age=60, reserved=True, final=0.5)
    found = table.look()
    assert found.reservation.per_second == 12  # since the first, a second ago
    assert found.payment.per_second == 6.25
