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
"""Decisions of this long ago, and of the last quarter of it, give the completion rate."""

# Cancelled orders do not count: orders cancels them itself, which proves no progress of the other services.
_LOOK = """
with undecided as materialized (
    select status, accepted_at from orders where final_at is null
), decided as materialized (
    select accepted_at, final_at, status = 'confirmed' or reserved_at is not null as paid
    from orders where final_at > %(since)s and status in ('confirmed', 'rejected')
), frontier as materialized (
    select greatest(%(reserved)s, (select max(accepted_at) from undecided where status = 'reserved'),
                    (select max(accepted_at) from decided)) as reserved,
           greatest(%(paid)s, (select max(accepted_at) from decided where paid)) as paid,
           (select count(*) from decided) as decided,
           (select count(*) from decided where final_at > %(recently)s) as decided_recently
)
select reserved, paid, decided, decided_recently,
       count(*) filter (where status = 'accepted' and accepted_at > reserved),
       min(accepted_at) filter (where status = 'accepted' and accepted_at > reserved),
       count(*) filter (where status = 'reserved' and accepted_at > paid),
       min(accepted_at) filter (where status = 'reserved' and accepted_at > paid)
from frontier left join undecided on true group by reserved, paid, decided, decided_recently
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look. An age is 0 when no order waits for the step. ``waiting`` counts the orders of both steps."""

    reservation_age_seconds: float = 0.0
    """Age of the oldest order that waits for its reservation."""
    payment_age_seconds: float = 0.0
    """Age of the oldest order that is reserved and waits for its payment."""
    waiting: int = 0
    decided_per_second: float = 0.0


class ProgressReader:
    """Reads the progress; it keeps the frontiers from one look to the next. For one thread."""

    def __init__(self) -> None:
        self._reserved = self._paid = datetime.min.replace(tzinfo=UTC)

    def __call__(self, transaction: Transaction) -> Progress:
        """Look once. The statement reads the open orders and those decided within the window, by partial indexes."""
        now = transaction.now
        ((self._reserved, self._paid, decided, recently, unreserved, oldest, unpaid, oldest_reserved),) = (
            transaction.execute(
                _LOOK,
                {
                    "reserved": self._reserved,
                    "paid": self._paid,
                    "since": now - timedelta(seconds=WINDOW_SECONDS),
                    "recently": now - timedelta(seconds=WINDOW_SECONDS / 4),
                },
            )
        )
        return Progress(
            reservation_age_seconds=_age(oldest, now),
            payment_age_seconds=_age(oldest_reserved, now),
            waiting=unreserved + unpaid,
            decided_per_second=max(decided / WINDOW_SECONDS, recently / (WINDOW_SECONDS / 4)),
        )


def _age(time: datetime | None, now: datetime) -> float:
    return 0.0 if time is None else max(0.0, (now - time).total_seconds())
