# SPDX-License-Identifier: Apache-2.0
"""Goes through all orders by their ids, some pages at a look, round and round."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

from orderflow.messaging.clock import Clock
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.charge_ids import ChargeIds
from orderflow.operations.reconciler.reading import FIRST, LAST, Selection, between, page_end


class Sweep:
    """The slow pass over all orders, and over what the other databases have about unknown ones. For one thread."""

    def __init__(self, databases: Mapping[str, Database], clock: Clock) -> None:
        self._databases = databases
        self._clock = clock
        self._after = FIRST
        self._ended_at = clock.monotonic()
        self._charge_ids = ChargeIds()

    @property
    def age_seconds(self) -> float:
        """Seconds since a pass ended; before the first, since the start."""
        return self._clock.monotonic() - self._ended_at

    def pages(self, rows: int, *, enough: Callable[[], bool]) -> Iterator[Selection]:
        """The next page of orders, and more until it is ``enough`` or the pass ends.

        A page counts as compared when the next one is asked for.
        """
        while True:
            last = page_end(self._databases, self._after, rows)
            yield between(self._after, last)
            if last == LAST:
                self._after, self._ended_at = FIRST, self._clock.monotonic()
                self._charge_ids.next_pass()
                return
            self._after = last
            if enough():
                return

    def sharing(self, charge_ids: Iterable[tuple[str, UUID]]) -> Iterator[UUID]:
        """Orders of a page and of earlier ones that probably share a charge."""
        for charge_id, order_id in charge_ids:
            other = self._charge_ids.add(charge_id, order_id)
            if other is not None:
                yield from (order_id, other)
