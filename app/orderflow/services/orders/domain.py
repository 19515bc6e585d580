# SPDX-License-Identifier: Apache-2.0
"""The state machine of an order, without I/O.

::

    accepted ──> reserved ──> confirmed      (payment captured)
       │            ├───────> rejected       (payment declined)
       ├────────────│───────> rejected       (no stock)
       └────────────┴───────> cancelled      (the deadline or the hold has passed)

The three on the right are final. Events may arrive in any order and more than once: a capture may overtake the
reservation, and an event after the final state changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from orderflow.events import InventoryRejected, InventoryReserved, PaymentCaptured, PaymentDeclined
from orderflow.messaging.event import Event

HOLD_EXPIRED = "hold_expired"


class Status(StrEnum):
    """The status of an order."""

    ACCEPTED = "accepted"
    RESERVED = "reserved"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when no event can change the order."""
        return self in FINAL


FINAL = frozenset({Status.CONFIRMED, Status.REJECTED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class Step:
    """A change of status, with the reason that the customer receives."""

    status: Status
    reason: str | None = None


def transition(status: Status, event: Event) -> Step | None:
    """The change that an event makes to an order in this status; None when it changes nothing."""
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
