# SPDX-License-Identifier: Apache-2.0
"""Whether the promises hold over all orders, decided from the contents of the four databases, without I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orderflow.instrumentation import OPEN_STATES, OUTCOMES
from orderflow.operations.reconciler.findings import CHARGED, CONSERVED, ONE_END, Check, Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Units over all SKUs. ``put`` is the total stock that was ever set, by the ledger."""

    put: int = 0
    on_hand: int = 0
    available: int = 0
    reserved: int = 0
    sold: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity(Findings):
    """What a complete comparison found, and its totals. Amounts are in minor units."""

    orders: Mapping[str, int]
    """Orders by status."""
    stock: Stock
    captured: int
    captured_amount: int
    confirmed_amount: int

    @property
    def total(self) -> int:
        """Every order that was accepted."""
        return sum(self.orders.values())

    @property
    def open(self) -> int:
        """Orders that are not final."""
        return sum(self.orders.get(status, 0) for status in OPEN_STATES)

    def checks(self) -> tuple[Check, ...]:
        """Each promise with its totals."""
        whole = {ONE_END: self._one_end, CONSERVED: self._conserved, CHARGED: self._charged}
        checks = Findings.checks(self)  # not super(): a dataclass with slots is another class than the one written here
        return tuple(whole[check.promise](check) if check.promise in whole else check for check in checks)

    def _one_end(self, check: Check) -> Check:
        ends = [self.orders.get(status, 0) for status in OUTCOMES]
        numbers = f"{self.total} = {' + '.join(map(str, ends))} + {self.open} open"
        return replace(check, numbers=numbers, kept=check.kept and self.total == sum(ends) + self.open)

    def _conserved(self, check: Check) -> Check:
        stock, left = self.stock, self.stock.available + self.stock.reserved
        numbers = f"{stock.put} put = {left} left + {stock.sold} sold, {check.numbers}"
        return replace(check, numbers=numbers, kept=check.kept and stock.put == left + stock.sold)

    def _charged(self, check: Check) -> Check:
        confirmed = self.orders.get("confirmed", 0)
        numbers = f"{self.captured} charges over {self.captured_amount}, "
        return replace(check, numbers=f"{numbers}{confirmed} confirmed over {self.confirmed_amount}")
