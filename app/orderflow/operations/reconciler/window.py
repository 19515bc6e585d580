# SPDX-License-Identifier: Apache-2.0
"""Follows the orders in the order in which they end."""

from collections.abc import Callable, Iterator
from datetime import datetime

from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.reading import FIRST, Selection, by_ids, read

_BACK_SECONDS = 600
"""How far back a new process begins; what ended before is left to the sweep."""

_START = "select now() - make_interval(secs => %(seconds)s)"
_PAGE = """
select order_id, final_at, extract(epoch from now() - final_at)::float8 from orders
where final_at >= %(at)s and (final_at, order_id) > (%(at)s, %(after)s)
and final_at <= now() - make_interval(secs => %(delay)s) order by final_at, order_id limit %(rows)s
"""


class Window:
    """Finds each order once, when it has been final for ``delay_seconds``. For one thread."""

    def __init__(self, orders: Database, *, delay_seconds: float) -> None:
        self.behind_seconds = 0.0
        """How much later than after the delay the next order is found."""
        self._orders = orders
        self._delay = delay_seconds
        self._at: datetime | None = None
        self._after = FIRST

    def pages(self, rows: int, *, enough: Callable[[], bool]) -> Iterator[Selection]:
        """The next page of orders, if there is one, and more until it is ``enough``.

        A page counts as compared when the next one is asked for.
        """
        if self._at is None:
            ((self._at,),) = read(self._orders, _START, seconds=self._delay + _BACK_SECONDS)
        while True:
            found = read(self._orders, _PAGE, at=self._at, after=self._after, delay=self._delay, rows=rows)
            if found:
                yield by_ids(order_id for order_id, *_ in found)
                self._after, self._at, age = found[-1]
                self.behind_seconds = age - self._delay
            if len(found) < rows:
                self.behind_seconds = 0.0
                return
            if enough():
                return
