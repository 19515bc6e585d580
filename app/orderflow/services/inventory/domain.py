# SPDX-License-Identifier: Apache-2.0
"""Decides in memory, without I/O, how a batch of order events changes the stock."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID

from orderflow.events import OrderLine

OUT_OF_STOCK = "out_of_stock"
UNKNOWN_SKU = "unknown_sku"
Move = Literal["reserve", "release", "sell"]


class State(StrEnum):
    """The state of an order's reservation."""

    RESERVED = "reserved"
    REJECTED = "rejected"
    SOLD = "sold"
    RELEASED = "released"


@dataclass(slots=True)
class Reservation:
    """The units of an order, by SKU, and their state. ``new`` is true until it is stored."""

    order_id: UUID
    state: State
    units: dict[str, int]
    new: bool = False


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of the stock ledger: how one order changed one SKU."""

    sku: str
    order_id: UUID
    kind: Move
    available: int = 0
    reserved: int = 0
    sold: int = 0


@dataclass(slots=True)
class StockAllocator:
    """Allocates the available units of a batch's SKUs to its orders, in the order of the messages.

    The state of a reservation decides which change may follow. So each event changes the stock at most once, however
    often and in whatever order it arrives. A release that arrives before its reservation leaves a tombstone: a released
    reservation without units, which makes the later reservation take nothing.
    """

    available: dict[str, int]
    reservations: dict[UUID, Reservation]
    movements: list[Movement] = field(default_factory=list)
    changed: set[UUID] = field(default_factory=set)

    def reserve(self, order_id: UUID, lines: tuple[OrderLine, ...]) -> Reservation | None:
        """Reserve all lines, or reject the order; None when the order already has a reservation."""
        if order_id in self.reservations:
            return None
        units = units_by_sku(lines)
        state = State.REJECTED if self.shortage(units) else State.RESERVED
        reservation = self._add(order_id, state, units)
        if state is State.RESERVED:
            self._move(reservation, "reserve")
        return reservation

    def reject(self, order_id: UUID) -> bool:
        """Reject an order without looking at the stock; false when the order already has a reservation."""
        if order_id in self.reservations:
            return False
        self._add(order_id, State.REJECTED, {})
        return True

    def shortage(self, units: Mapping[str, int]) -> str | None:
        """Why these units cannot be reserved, or None."""
        if any(sku not in self.available for sku in units):
            return UNKNOWN_SKU
        if any(self.available[sku] < count for sku, count in units.items()):
            return OUT_OF_STOCK
        return None

    def sell(self, order_id: UUID) -> bool:
        """Sell the units of a confirmed order; false when its reservation is missing, rejected or released."""
        self._end(order_id, State.SOLD, "sell")
        reservation = self.reservations.get(order_id)
        return reservation is not None and reservation.state is State.SOLD

    def release(self, order_id: UUID) -> bool:
        """Release the units of a rejected or cancelled order; false when none are reserved."""
        if order_id not in self.reservations:
            self._add(order_id, State.RELEASED, {})
            return False
        return self._end(order_id, State.RELEASED, "release")

    def _end(self, order_id: UUID, state: State, move: Move) -> bool:
        reservation = self.reservations.get(order_id)
        if reservation is None or reservation.state is not State.RESERVED:
            return False
        reservation.state = state
        self.changed.add(order_id)
        self._move(reservation, move)
        return True

    def _add(self, order_id: UUID, state: State, units: dict[str, int]) -> Reservation:
        reservation = self.reservations[order_id] = Reservation(order_id, state, units, new=True)
        self.changed.add(order_id)
        return reservation

    def _move(self, reservation: Reservation, move: Move) -> None:
        for sku, count in reservation.units.items():
            movement = _movement(sku, reservation.order_id, move, count)
            self.available[sku] = self.available.get(sku, 0) + movement.available
            self.movements.append(movement)


def units_by_sku(lines: tuple[OrderLine, ...]) -> dict[str, int]:
    """The units of each SKU; an order may name a SKU in several lines."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line.sku] += line.quantity
    return dict(units)


def _movement(sku: str, order_id: UUID, move: Move, count: int) -> Movement:
    match move:
        case "reserve":
            return Movement(sku, order_id, move, available=-count, reserved=count)
        case "release":
            return Movement(sku, order_id, move, available=count, reserved=-count)
        case "sell":
            return Movement(sku, order_id, move, reserved=-count, sold=count)
