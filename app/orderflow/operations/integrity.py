# SPDX-License-Identifier: Apache-2.0
"""Whether the promises hold, judged from what the four databases say. Pure.

The databases are not read at one moment, so orders in flight can look wrong. What is wrong is therefore named (by
SKU, or by order), and counts only when the next look finds it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orderflow.services.moments import OPEN_STATES, OUTCOMES, Reconciliation, Stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Units over all SKUs. ``put`` is what the ledger says was ever put on the shelf."""

    put: int = 0
    on_hand: int = 0
    available: int = 0
    reserved: int = 0
    sold: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise, the numbers that it rests on, and whether it is kept."""

    promise: str
    numbers: str
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What one look found. Everything that is wrong is named; amounts are in minor units."""

    orders: Mapping[str, int]
    """Orders by status."""
    stock: Stock
    captured: int
    captured_amount: int
    confirmed_amount: int
    oversold: Mapping[str, int] = field(default_factory=dict)
    """Units sold beyond those put on the shelf, by SKU."""
    drift: Mapping[str, int] = field(default_factory=dict)
    """How far stock, ledger and reservations are apart, in units, by SKU."""
    ended_twice: frozenset[str] = frozenset()
    """Final orders whose history has not exactly one end."""
    duplicate_charges: frozenset[str] = frozenset()
    duplicate_notifications: frozenset[str] = frozenset()
    charge_mismatches: frozenset[str] = frozenset()
    """Orders that are confirmed and not charged what they cost, or ended otherwise and the charge was kept."""
    stuck: Mapping[str, Stuck] = field(default_factory=dict)
    """Open orders whose hold ended a while ago, by status."""

    @property
    def total(self) -> int:
        """Every order that was accepted."""
        return sum(self.orders.values())

    @property
    def open(self) -> int:
        """Orders that are not final."""
        return sum(self.orders.get(status, 0) for status in OPEN_STATES)

    @property
    def suspicious(self) -> bool:
        """True when something looks wrong, be it because it is in flight."""
        return any(
            (
                self.oversold,
                self.drift,
                self.ended_twice,
                self.duplicate_charges,
                self.duplicate_notifications,
                self.charge_mismatches,
            )
        )

    def confirmed_by(self, earlier: "Integrity | None") -> "Integrity":
        """This look with only what an earlier look had found wrong too; nothing when there was no earlier look."""
        if earlier is None:
            return replace(
                self,
                oversold={},
                drift={},
                ended_twice=frozenset(),
                duplicate_charges=frozenset(),
                duplicate_notifications=frozenset(),
                charge_mismatches=frozenset(),
            )
        return replace(
            self,
            oversold=_both(self.oversold, earlier.oversold),
            drift=_both(self.drift, earlier.drift),
            ended_twice=self.ended_twice & earlier.ended_twice,
            duplicate_charges=self.duplicate_charges & earlier.duplicate_charges,
            duplicate_notifications=self.duplicate_notifications & earlier.duplicate_notifications,
            charge_mismatches=self.charge_mismatches & earlier.charge_mismatches,
        )

    def reconciliation(self) -> Reconciliation:
        """The numbers for the metrics."""
        return Reconciliation(
            oversold_units=sum(self.oversold.values()),
            duplicate_charges=len(self.duplicate_charges),
            duplicate_notifications=len(self.duplicate_notifications),
            ledger_drift_units=sum(self.drift.values()),
            charge_mismatches=len(self.charge_mismatches),
            stuck=self.stuck,
        )

    def checks(self) -> tuple[Check, ...]:
        """Each promise with its numbers."""
        stock, ends = self.stock, [self.orders.get(status, 0) for status in OUTCOMES]
        left = stock.available + stock.reserved
        confirmed = self.orders.get("confirmed", 0)
        stuck = sum(found.orders for found in self.stuck.values())
        return (
            Check(
                promise="every order has one end, or is still open",
                numbers=f"{self.total} = {' + '.join(map(str, ends))} + {self.open} open",
                kept=self.total == sum(ends) + self.open and not self.ended_twice,
            ),
            Check(promise="no order is stuck", numbers=f"{stuck} open beyond their hold", kept=stuck == 0),
            Check(
                promise="stock is conserved",
                numbers=f"{stock.put} put = {left} left + {stock.sold} sold, {_named(self.drift)} drift",
                kept=stock.put == left + stock.sold and not self.drift,
            ),
            Check(promise="nothing is oversold", numbers=f"{_named(self.oversold)} oversold", kept=not self.oversold),
            Check(
                promise="charges = confirmed orders",
                numbers=f"{self.captured} charges over {self.captured_amount}, "
                f"{confirmed} confirmed over {self.confirmed_amount}",
                kept=not self.charge_mismatches,
            ),
            Check(
                promise="nobody is charged or told twice",
                numbers=f"{len(self.duplicate_charges)} charges, {len(self.duplicate_notifications)} notifications",
                kept=not self.duplicate_charges and not self.duplicate_notifications,
            ),
        )


def _both(now: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    return {name: min(now[name], earlier[name]) for name in now.keys() & earlier.keys()}


def _named(units: Mapping[str, int]) -> str:
    return f"{sum(units.values())} units"
