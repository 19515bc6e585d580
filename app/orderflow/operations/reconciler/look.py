# SPDX-License-Identifier: Apache-2.0
"""One look at the databases, whose cost does not grow with the number of orders.

A look compares the orders that have ended since the last look, those that were suspicious then, the stock with its
ledger, and a slice of a slow sweep over all orders. A suspicious order is compared at each look until it fits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.comparison import Compared, compare
from orderflow.operations.reconciler.findings import Findings
from orderflow.operations.reconciler.ledger_sums import COMMITTED_SECONDS
from orderflow.operations.reconciler.queries import GRACE_SECONDS, stale, stuck
from orderflow.operations.reconciler.reading import Selection, by_ids
from orderflow.operations.reconciler.retired import deleted_below
from orderflow.operations.reconciler.stock import StockComparison
from orderflow.operations.reconciler.sweep import Sweep
from orderflow.operations.reconciler.window import Window

PART_SECONDS = 0.5
"""How long each part of a look reads further pages; it reads at least one."""
MAX_SUSPECTS = 10_000
_ROWS, _FEWEST_ROWS = 4000, 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found."""

    found: Findings
    doubtful: Findings
    """What only counts when a later look finds it for certain."""
    stock_known: bool
    """Whether stock and ledger were compared; at first the ledger is added up."""
    behind_seconds: float
    """How much later than they should orders that ended are compared."""
    sweep_age_seconds: float


class Looks:
    """Looks again and again, and remembers where it was. For one thread."""

    def __init__(self, databases: Mapping[str, Database], *, clock: Clock) -> None:
        self._databases = databases
        self._clock = clock
        # Compared when its transaction must be committed, and again when everything that follows must have happened.
        self._windows = [Window(databases["orders"], delay_seconds=it) for it in (COMMITTED_SECONDS, GRACE_SECONDS)]
        self._sweep = Sweep(databases, clock)
        self._stock = StockComparison(databases["inventory"])
        self._suspects: dict[UUID, None] = {}
        self._rows = _ROWS

    def look(self) -> Look:
        """Look once. Raises DatabaseUnavailable or TransactionAborted; the next look continues with smaller pages."""
        try:
            look = self._look()
        except InfrastructureError:
            self._rows = max(_FEWEST_ROWS, self._rows // 2)
            raise
        self._rows = min(_ROWS, 2 * self._rows)
        return look

    def _look(self) -> Look:
        below = deleted_below(self._databases)
        found = Findings(stuck=stuck(self._databases)).merged(self._suspicious(below))
        for page in self._pages(below):
            found = found.merged(page)
        stock = self._stock.look(self._enough())
        found = found.merged(
            Findings(drift=stock.drift, oversold=stock.oversold, stale_availability=stale(self._databases))
        )
        return Look(
            found=found,
            doubtful=Findings(drift=stock.doubtful_drift, oversold=stock.doubtful_oversold),
            stock_known=stock.known,
            behind_seconds=max(window.behind_seconds for window in self._windows),
            sweep_age_seconds=self._sweep.age_seconds,
        )

    def _suspicious(self, below: UUID) -> Findings:
        """What is still wrong with the orders that were suspicious at the last look."""
        if not self._suspects:
            return Findings()
        found = self._compare(by_ids(self._suspects), below).findings
        self._suspects = dict.fromkeys(found.order_ids())
        return found

    def _pages(self, below: UUID) -> Iterator[Findings]:
        """The findings about the orders that have ended, and about the next slice of the sweep."""
        enough = self._enough()
        for window in self._windows:
            for selection in window.pages(self._rows, enough=enough):
                found = self._compare(selection, below).findings
                self._suspect(found.order_ids())
                yield found
        for selection in self._sweep.pages(self._rows, enough=self._enough()):
            compared = self._compare(selection, below)
            self._suspect(compared.findings.order_ids())
            self._suspect(self._sweep.sharing(compared.charge_ids))
            yield compared.findings

    def _compare(self, selection: Selection, below: UUID) -> Compared:
        return compare(self._databases, selection, grace_seconds=GRACE_SECONDS, below=below)

    def _suspect(self, order_ids: Iterable[UUID]) -> None:
        for order_id in order_ids:
            if len(self._suspects) < MAX_SUSPECTS:
                self._suspects[order_id] = None

    def _enough(self) -> Callable[[], bool]:
        """Tells whether the time of a part of the look is over, from now on."""
        end = self._clock.monotonic() + PART_SECONDS
        return lambda: self._clock.monotonic() >= end
