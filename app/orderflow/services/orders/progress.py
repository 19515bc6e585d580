# SPDX-License-Identifier: Apache-2.0
"""How far the decisions of orders have come, as the table of orders shows it.

Orders are handled roughly in the order in which they were accepted. So each step has a frontier: the acceptance time of
the newest order that completed it. An order that waits beyond the frontier waits for its turn. One that waits behind it
was overtaken, for example because its customer pays slowly, and says nothing about how long a new order will take.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orderflow.messaging.service import Transaction

WINDOW_SECONDS = 2.0
"""What completed a step since this long ago gives its rate."""
_SHORTEST_SECONDS = 0.5
"""The shortest time that gives a rate: services complete orders in batches, a few per second."""

# Cancelled orders do not count: orders cancels them itself, which proves no progress of the other services.
_LOOK = """
with undecided as materialized (
    select status, accepted_at, reserved_at from orders where final_at is null
), decided as materialized (
    select accepted_at, final_at, reserved_at, status = 'confirmed' or reserved_at is not null as paid
    from orders where final_at > %(since)s and status in ('confirmed', 'rejected')
), frontier as materialized (
    select greatest(%(reserved)s, (select max(accepted_at) from undecided where status = 'reserved'),
                    (select max(accepted_at) from decided)) as reserved,
           greatest(%(paid)s, (select max(accepted_at) from decided where paid)) as paid
), completed as (
    select coalesce(reserved_at, final_at) as reservation_at, case when paid then final_at end as payment_at
    from decided
    union all select reserved_at, null from undecided where reserved_at > %(since)s
), rates as materialized (
    select count(*) filter (where reservation_at > %(since)s) as reservations,
           min(reservation_at) filter (where reservation_at > %(since)s) as first_reservation_at,
           count(payment_at) as payments, min(payment_at) as first_payment_at
    from completed
)
select reserved, paid, reservations, first_reservation_at, payments, first_payment_at,
       count(*) filter (where status = 'accepted' and accepted_at > reserved),
       min(accepted_at) filter (where status = 'accepted' and accepted_at > reserved),
       count(*) filter (where status = 'reserved' and accepted_at > paid),
       min(accepted_at) filter (where status = 'reserved' and accepted_at > paid)
from frontier cross join rates left join undecided on true
group by reserved, paid, reservations, first_reservation_at, payments, first_payment_at
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one look shows of a step that orders pass."""

    waiting: int = 0
    """Orders that wait for their turn."""
    age_seconds: float = 0.0
    """Age of the oldest of them; 0 when none waits."""
    per_second: float = 0.0
    """How many have completed the step lately; 0: it stands still, or nothing came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look. A reserved order waits for its payment."""

    reservation: Step = Step()
    payment: Step = Step()


class ProgressReader:
    """Reads the progress; it keeps the frontiers from one look to the next. For one thread."""

    def __init__(self) -> None:
        self._reserved = self._paid = datetime.min.replace(tzinfo=UTC)

    def __call__(self, transaction: Transaction) -> Progress:
        """Look once. The statement reads the open orders and those decided within the window, by partial indexes."""
        now = transaction.now
        (row,) = transaction.execute(
            _LOOK,
            {
                "reserved": self._reserved,
                "paid": self._paid,
                "since": now - timedelta(seconds=WINDOW_SECONDS),
            },
        )
        self._reserved, self._paid, *counts, unreserved, oldest, unpaid, oldest_reserved = row
        reservations, first_reservation_at, payments, first_payment_at = counts
        return Progress(
            reservation=Step(
                waiting=unreserved,
                age_seconds=_age(oldest, now),
                per_second=_rate(reservations, first_reservation_at, now),
            ),
            payment=Step(
                waiting=unpaid,
                age_seconds=_age(oldest_reserved, now),
                per_second=_rate(payments, first_payment_at, now),
            ),
        )


def _rate(completed: int, first: datetime | None, now: datetime) -> float:
    """Per second since the first of the window: after a pause a step is as fast as it is now, not as it was."""
    return completed / max(_SHORTEST_SECONDS, _age(first, now))


def _age(time: datetime | None, now: datetime) -> float:
    return 0.0 if time is None else max(0.0, (now - time).total_seconds())
