# SPDX-License-Identifier: Apache-2.0
"""Compares the stock of each SKU with its ledger, by what is new in it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from orderflow.messaging.postgres.database import Database
from orderflow.operations.reconciler.ledger_sums import LedgerSums, Moved
from orderflow.operations.reconciler.reading import read

# One snapshot of the stock and of the new lines.
_STOCK = """
with moved as (
    select sku, coalesce(sum(d_available) filter (where kind = 'put'), 0)::bigint as put,
           sum(d_available)::bigint as available, sum(d_reserved)::bigint as reserved, sum(d_sold)::bigint as sold
    from stock_ledger where at > %(until)s group by sku
)
select sku, coalesce(on_hand, 0)::bigint, coalesce(stock.available, 0)::bigint, coalesce(stock.reserved, 0)::bigint,
       coalesce(stock.sold, 0)::bigint, coalesce(put, 0)::bigint, coalesce(moved.available, 0)::bigint,
       coalesce(moved.reserved, 0)::bigint, coalesce(moved.sold, 0)::bigint
from stock full join moved using (sku)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StockLook:
    """What one look at the stock found, in units by SKU. ``known``: the ledger was added up."""

    known: bool = False
    drift: dict[str, int] = field(default_factory=dict)
    oversold: dict[str, int] = field(default_factory=dict)
    doubtful_drift: dict[str, int] = field(default_factory=dict)
    """Not certain before the ledger is added up again: a line may have been written later than its time says."""
    doubtful_oversold: dict[str, int] = field(default_factory=dict)


class StockComparison:
    """Looks at the stock again and again. For one thread."""

    def __init__(self, inventory: Database) -> None:
        self._inventory = inventory
        self._sums = LedgerSums(inventory)
        self._doubted: dict[str, int] = {}
        """SKUs that do not fit, with the number of builds when that was found first."""

    def look(self, enough: Callable[[], bool]) -> StockLook:
        """Compare once, if the sums of the ledger can be completed before it is ``enough``."""
        if not self._sums.advance(enough):
            return StockLook()
        rows = read(self._inventory, _STOCK, until=self._sums.until)
        drift, oversold = {}, {}
        stock = {row[0]: row[1:5] for row in rows}
        moved = dict(self._sums.by_sku)
        for sku, *_, put, available, reserved, sold in rows:
            moved[sku] = moved.get(sku, Moved()).plus(put, available, reserved, sold)
        for sku, total in moved.items():
            on_hand, available, reserved, sold = stock.get(sku, (0, 0, 0, 0))
            drift[sku] = _drift(on_hand, Moved(available=available, reserved=reserved, sold=sold), total)
            oversold[sku] = max(sold, total.sold) - total.put
        return self._certain(_above_zero(drift), _above_zero(oversold))

    def _certain(self, drift: dict[str, int], oversold: dict[str, int]) -> StockLook:
        """Divide the findings by whether the ledger was added up after they were found first."""
        builds = self._sums.builds
        self._doubted = {sku: self._doubted.get(sku, builds) for sku in drift | oversold}
        doubtful = {sku for sku, found in self._doubted.items() if found == builds}
        if doubtful:
            self._sums.rebuild()
        return StockLook(
            known=True,
            drift={sku: units for sku, units in drift.items() if sku not in doubtful},
            oversold={sku: units for sku, units in oversold.items() if sku not in doubtful},
            doubtful_drift={sku: units for sku, units in drift.items() if sku in doubtful},
            doubtful_oversold={sku: units for sku, units in oversold.items() if sku in doubtful},
        )


def _drift(on_hand: int, stock: Moved, moved: Moved) -> int:
    """How far the stock of a SKU is from its ledger."""
    return (
        abs(on_hand - stock.available - stock.reserved - stock.sold)
        + abs(stock.available - moved.available)
        + abs(stock.reserved - moved.reserved)
        + abs(stock.sold - moved.sold)
    )


def _above_zero(units: dict[str, int]) -> dict[str, int]:
    return {sku: number for sku, number in units.items() if number > 0}
