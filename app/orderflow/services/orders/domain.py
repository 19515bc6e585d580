# SPDX-License-Identifier: Apache-2.0
"""The state machine of an order. Pure: it says what an event does, and knows neither database nor broker.

::

    accepted ──> reserved ──> confirmed      (payment captured)
       │            ├───────> rejected       (payment declined)
       ├────────────│───────> rejected       (no stock)
       └────────────┴───────> cancelled      (the hold expired)

The three on the right are final. Events may come in any order and more than once: a capture may overtake the
reservation, and whatever comes after the end changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from orderflow.events import InventoryRejected, InventoryReserved, PaymentCaptured, PaymentDeclined
from orderflow.messaging.event import Event

HOLD_EXPIRED = "hold_expired"


class Status(StrEnum):
    """Where an order stands."""

    ACCEPTED = "accepted"
    RESERVED = "reserved"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing changes the order any more."""
        return self in FINAL


FINAL = frozenset({Status.CONFIRMED, Status.REJECTED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class Step:
    """A change of status, with the reason that the customer is told."""

    status: Status
    reason: str | None = None


def step(status: Status, event: Event) -> Step | None:
    """What an event does to an order in this status; None when it changes nothing."""
    if status.final:
        return None
    match event:
        case InventoryReserved():
            return Step(Status.RESERVED) if status is Status.ACCEPTED else None
        case InventoryRejected():
            return Step(Status.REJECTED, event.reason)
        case PaymentCaptured():
            return Step(Status.CONFIRMED)
        case PaymentDeclined():
            return Step(Status.REJECTED, event.reason)
        case _:
            raise TypeError(f"{type(event).__name__} is not handled by orders")
