# SPDX-License-Identifier: Apache-2.0
"""What breaks a promise, without I/O.

The databases are not read at the same moment, so orders in flight can look wrong. Each finding therefore has a name (a
SKU or an order), and counts only when the next look finds it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self
from uuid import UUID

from orderflow.instrumentation import Reconciliation, Stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise, its numbers, whether it is kept, and some of the orders or SKUs that break it."""

    promise: str
    numbers: str
    kept: bool
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that was found wrong, by name."""

    oversold: Mapping[str, int] = field(default_factory=dict)
    """Units sold beyond the stock that was ever set, by SKU."""
    drift: Mapping[str, int] = field(default_factory=dict)
    """How far stock, ledger and reservations are apart, in units, by SKU or order."""
    ended_twice: frozenset[str] = frozenset()
    """Final orders whose history does not have exactly one final state."""
    duplicate_charges: frozenset[str] = frozenset()
    duplicate_notifications: frozenset[str] = frozenset()
    charge_mismatches: frozenset[str] = frozenset()
    """Confirmed orders that were not charged their total, and other final orders whose charge was not refunded."""
    stock_mismatches: frozenset[str] = frozenset()
    """Confirmed orders whose units are not sold, and other final orders whose reservation is not released."""
    stale_availability: frozenset[str] = frozenset()
    """SKUs whose newest stock the orders API does not have, with the version that it has."""
    missing_notifications: frozenset[str] = frozenset()
    """Final orders without a notification."""
    stuck: Mapping[str, Stuck] = field(default_factory=dict)
    """Open orders whose hold ended a while ago, by status."""

    @property
    def suspicious(self) -> bool:
        """True when there are findings; the orders may only be in flight."""
        return any(getattr(self, name) for name in CONFIRMED)

    def confirmed_by(self, earlier: "Findings | None") -> Self:
        """These findings without those that an earlier look does not have; none when there was no earlier look."""
        before = earlier or replace(self, **{name: type(getattr(self, name))() for name in CONFIRMED})
        return replace(self, **{name: _both(getattr(self, name), getattr(before, name)) for name in CONFIRMED})

    def merged(self, other: "Findings") -> Self:
        """The findings of two parts of the data."""
        return replace(
            self, **{part.name: getattr(self, part.name) | getattr(other, part.name) for part in fields(Findings)}
        )

    def order_ids(self) -> set[UUID]:
        """The orders that break a promise about single orders, when the names of these findings are order ids."""
        names = set(self.drift).union(*(getattr(self, name) for name in _BY_ORDER))
        return {UUID(name) for name in names}

    def reconciliation(self) -> Reconciliation:
        """The numbers for the metrics."""
        return Reconciliation(
            oversold_units=sum(self.oversold.values()),
            ended_twice=len(self.ended_twice),
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
        """Each promise with the number of findings against it."""
        stuck = sum(found.orders for found in self.stuck.values())
        twice = self.duplicate_charges | self.duplicate_notifications
        numbers = f"{len(self.duplicate_charges)} charges, {len(self.duplicate_notifications)} notifications"
        drift = f"{sum(self.drift.values())} units drift"
        oversold = f"{sum(self.oversold.values())} units oversold"
        return (
            _check(ONE_END, self.ended_twice, f"{len(self.ended_twice)} with another number of ends"),
            Check(promise="no order is stuck", numbers=f"{stuck} open beyond their hold", kept=stuck == 0),
            _check(CONSERVED, self.drift, drift),
            _check("nothing is oversold", self.oversold, oversold),
            _absent("every reservation fits its order", self.stock_mismatches, "do not fit"),
            _absent("the orders API has the current stock", self.stale_availability, "SKUs are not up to date"),
            _absent(CHARGED, self.charge_mismatches, "do not fit"),
            _check("no order is charged or notified twice", twice, numbers),
            _absent("every final order is notified", self.missing_notifications, "without a notification"),
        )


ONE_END = "every order has one end, or is still open"
CONSERVED = "stock is conserved"
CHARGED = "charges = confirmed orders"

CONFIRMED = tuple(part.name for part in fields(Findings) if part.name != "stuck")
"""The fields whose findings a second look must confirm: on a busy system an order may be in flight."""

_BY_ORDER = (
    "ended_twice",
    "duplicate_charges",
    "duplicate_notifications",
    "charge_mismatches",
    "stock_mismatches",
    "missing_notifications",
)
_MAX_EXAMPLES = 10


def some(names: Iterable[str]) -> tuple[str, ...]:
    """The first few of the names."""
    return tuple(sorted(names)[:_MAX_EXAMPLES])


def _both(now: Any, earlier: Any) -> Any:
    if isinstance(now, frozenset):
        return now & earlier
    return {name: min(now[name], earlier[name]) for name in now.keys() & earlier.keys()}


def _check(promise: str, names: Iterable[str], numbers: str) -> Check:
    """A promise that is kept when nothing breaks it."""
    return Check(promise=promise, numbers=numbers, kept=not names, examples=some(names))


def _absent(promise: str, names: frozenset[str], words: str) -> Check:
    return _check(promise, names, f"{len(names)} {words}")
