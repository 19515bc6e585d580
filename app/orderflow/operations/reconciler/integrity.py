# SPDX-License-Identifier: Apache-2.0
"""Whether the promises hold, decided from the contents of the four databases, without I/O.

The databases are not read at the same moment, so orders in flight can look wrong. Each finding therefore has a name (a
SKU or an order), and counts only when the next run finds it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orderflow.instrumentation import OPEN_STATES, OUTCOMES, Reconciliation, Stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Units over all SKUs. ``put`` is the total stock that was ever set, by the ledger."""

    put: int = 0
    on_hand: int = 0
    available: int = 0
    reserved: int = 0
    sold: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise, its numbers, whether it is kept, and some of the orders or SKUs that break it."""

    promise: str
    numbers: str
    kept: bool
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What one run found. Each finding has a name; amounts are in minor units."""

    orders: Mapping[str, int]
    """Orders by status."""
    stock: Stock
    captured: int
    captured_amount: int
    confirmed_amount: int
    oversold: Mapping[str, int] = field(default_factory=dict)
    """Units sold beyond the stock that was ever set, by SKU."""
    drift: Mapping[str, int] = field(default_factory=dict)
    """How far stock, ledger and reservations are apart, in units, by SKU."""
    ended_twice: frozenset[str] = frozenset()
    """Final orders whose history does not have exactly one final state."""
    duplicate_charges: frozenset[str] = frozenset()
    duplicate_notifications: frozenset[str] = frozenset()
    charge_mismatches: frozenset[str] = frozenset()
    """Confirmed orders that were not charged their total, and other final orders whose charge was not refunded."""
    stock_mismatches: frozenset[str] = frozenset()
    """Confirmed orders whose reservation is not sold, and other final orders whose reservation is not released."""
    stale_availability: frozenset[str] = frozenset()
    """SKUs whose newest stock the orders API does not have, with the version that it has."""
    missing_notifications: frozenset[str] = frozenset()
    """Final orders without a notification."""
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
        """True when there are findings; the orders may only be in flight."""
        return any(getattr(self, name) for name in _NAMED)

    def confirmed_by(self, earlier: "Integrity | None") -> "Integrity":
        """This result with only the findings that an earlier run has too; with none when there was no earlier run."""
        before = earlier or replace(self, **{name: type(getattr(self, name))() for name in _NAMED})
        return replace(self, **{name: _both(getattr(self, name), getattr(before, name)) for name in _NAMED})

    def reconciliation(self) -> Reconciliation:
        """The numbers for the metrics."""
        return Reconciliation(
            oversold_units=sum(self.oversold.values()),
            duplicate_charges=len(self.duplicate_charges),
            duplicate_notifications=len(self.duplicate_notifications),
            ledger_drift_units=sum(self.drift.values()),
            charge_mismatches=len(self.charge_mismatches),
            stock_mismatches=len(self.stock_mismatches),
            stale_availability=len(self.stale_availability),
            missing_notifications=len(self.missing_notifications),
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
                examples=_some(self.ended_twice),
            ),
            Check(promise="no order is stuck", numbers=f"{stuck} open beyond their hold", kept=stuck == 0),
            Check(
                promise="stock is conserved",
                numbers=f"{stock.put} put = {left} left + {stock.sold} sold, {sum(self.drift.values())} units drift",
                kept=stock.put == left + stock.sold and not self.drift,
                examples=_some(self.drift),
            ),
            Check(
                promise="nothing is oversold",
                numbers=f"{sum(self.oversold.values())} units oversold",
                kept=not self.oversold,
                examples=_some(self.oversold),
            ),
            _absent("every reservation fits its order", self.stock_mismatches, "do not fit"),
            _absent("the orders API has the current stock", self.stale_availability, "SKUs are not up to date"),
            Check(
                promise="charges = confirmed orders",
                numbers=f"{self.captured} charges over {self.captured_amount}, "
                f"{confirmed} confirmed over {self.confirmed_amount}",
                kept=not self.charge_mismatches,
                examples=_some(self.charge_mismatches),
            ),
            Check(
                promise="no order is charged or notified twice",
                numbers=f"{len(self.duplicate_charges)} charges, {len(self.duplicate_notifications)} notifications",
                kept=not self.duplicate_charges and not self.duplicate_notifications,
                examples=_some(self.duplicate_charges | self.duplicate_notifications),
            ),
            _absent("every final order is notified", self.missing_notifications, "without a notification"),
        )


_NAMED = (
    "oversold",
    "drift",
    "ended_twice",
    "duplicate_charges",
    "duplicate_notifications",
    "charge_mismatches",
    "stock_mismatches",
    "stale_availability",
    "missing_notifications",
)
"""The fields with findings. On a busy system an order may be in flight, so a second run must confirm them."""

_MAX_EXAMPLES = 10


def _both(now: Any, earlier: Any) -> Any:
    if isinstance(now, frozenset):
        return now & earlier
    return {name: min(now[name], earlier[name]) for name in now.keys() & earlier.keys()}


def _some(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names)[:_MAX_EXAMPLES])


def _absent(promise: str, names: frozenset[str], words: str) -> Check:
    """A promise that is kept when nothing breaks it."""
    return Check(promise=promise, numbers=f"{len(names)} {words}", kept=not names, examples=_some(names))
