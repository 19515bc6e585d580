# SPDX-License-Identifier: Apache-2.0
"""What a batch of order events does to the stock: decided in memory, in the order of the messages. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID

from orderflow.events import OrderLine

OUT_OF_STOCK = "out_of_stock"
UNKNOWN_SKU = "unknown_sku"
Kind = Literal["reserve", "release", "sell"]


class State(StrEnum):
    """What became of an order's reservation."""

    RESERVED = "reserved"
    REJECTED = "rejected"
    SOLD = "sold"
    RELEASED = "released"


@dataclass(slots=True)
class Reservation:
    """The units that an order holds, and what became of them."""

    order_id: UUID
    state: State
    units: dict[str, int]
    new: bool = False
    """True when it is not in the database yet."""


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of the stock ledger: how one order changed one SKU."""

    sku: str
    order_id: UUID
    kind: Kind
    available: int = 0
    reserved: int = 0
    sold: int = 0


@dataclass(slots=True)
class StockAllocator:
    """The available units and the reservations that a batch is about, as it changes them.

    An order's state says what may still happen to it, so each event changes the stock at most once however often,
    and in whatever order, it arrives. A release before the reservation leaves a tombstone; the reservation that
    comes later finds it and takes nothing.
    """

    available: dict[str, int]
    reservations: dict[UUID, Reservation]
    movements: list[Movement] = field(default_factory=list)
    changed: set[UUID] = field(default_factory=set)

    def reserve(self, order_id: UUID, lines: tuple[OrderLine, ...]) -> Reservation | None:
        """Take all lines or none; None when the order was here before. A rejected one comes back as such."""
        if order_id in self.reservations:
            return None
        units = wanted(lines)
        state = State.REJECTED if self.shortage(units) else State.RESERVED
        reservation = self._note(order_id, state, units)
        if state is State.RESERVED:
            self._move(reservation, "reserve")
        return reservation

    def shortage(self, units: Mapping[str, int]) -> str | None:
        """Why these units cannot be taken, or None."""
        if any(sku not in self.available for sku in units):
            return UNKNOWN_SKU
        if any(self.available[sku] < count for sku, count in units.items()):
            return OUT_OF_STOCK
        return None

    def sell(self, order_id: UUID) -> bool:
        """The order is confirmed; false when there is nothing to sell: it was never reserved, or is released."""
        self._leave(order_id, State.SOLD, "sell")
        reservation = self.reservations.get(order_id)
        return reservation is not None and reservation.state is State.SOLD

    def release(self, order_id: UUID) -> bool:
        """The order will not be; false when there was nothing to give back."""
        if order_id not in self.reservations:
            self._note(order_id, State.RELEASED, {})
            return False
        return self._leave(order_id, State.RELEASED, "release")

    def _leave(self, order_id: UUID, state: State, kind: Kind) -> bool:
        reservation = self.reservations.get(order_id)
        if reservation is None or reservation.state is not State.RESERVED:
            return False
        reservation.state = state
        self.changed.add(order_id)
        self._move(reservation, kind)
        return True

    def _note(self, order_id: UUID, state: State, units: dict[str, int]) -> Reservation:
        reservation = self.reservations[order_id] = Reservation(order_id, state, units, new=True)
        self.changed.add(order_id)
        return reservation

    def _move(self, reservation: Reservation, kind: Kind) -> None:
        for sku, count in reservation.units.items():
            movement = _movement(sku, reservation.order_id, kind, count)
            self.available[sku] = self.available.get(sku, 0) + movement.available
            self.movements.append(movement)


def wanted(lines: tuple[OrderLine, ...]) -> dict[str, int]:
    """Units by SKU; an order may name a SKU in several lines."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line.sku] += line.quantity
    return dict(units)


def _movement(sku: str, order_id: UUID, kind: Kind, count: int) -> Movement:
    match kind:
        case "reserve":
            return Movement(sku, order_id, kind, available=-count, reserved=count)
        case "release":
            return Movement(sku, order_id, kind, available=count, reserved=-count)
        case "sell":
            return Movement(sku, order_id, kind, reserved=-count, sold=count)
