# SPDX-License-Identifier: Apache-2.0
"""What a payment provider must be able to do, and what it can answer."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What a call to the provider is about. ``amount`` is in minor units; ``trace`` are trace headers to send along."""

    order_id: UUID
    amount: int
    currency: str
    payment_token: str
    charge_id: str | None = None
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def charge_key(self) -> str:
        """The idempotency key of the charge: one per order, for ever."""
        return f"{self.order_id}:charge"

    @property
    def refund_key(self) -> str:
        """The idempotency key of the refund: one per order, for ever."""
        return f"{self.order_id}:refund"

    def __repr__(self) -> str:
        return f"Payment(order_id={self.order_id})"


@dataclass(frozen=True, slots=True)
class Captured:
    """The charge was executed."""

    word: ClassVar[str] = "captured"
    charge_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider refused the charge for good."""

    word: ClassVar[str] = "declined"


@dataclass(frozen=True, slots=True)
class NotKnown:
    """The provider has executed no charge with this key, so far."""

    word: ClassVar[str] = "not_known"


@dataclass(frozen=True, slots=True)
class Refunded:
    """The charge was paid back."""

    word: ClassVar[str] = "refunded"


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider answered with an error, or could not be reached; to be tried again with the same key."""

    word: ClassVar[str] = "failed"
    reason: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """The call went out and no usable answer came: it may have been executed. Ask, do not guess."""

    word: ClassVar[str] = "unclear"
    reason: str


Answer = Captured | Declined | NotKnown | Refunded | Failed | Unclear


class PaymentProvider(Protocol):
    """A payment provider. Every call has an end, and never raises for what the provider or the network do wrong."""

    def connections(self) -> AbstractAsyncContextManager[object]:
        """What the calls share; to be entered in the event loop that makes them, before the first."""

    async def charge(self, payment: Payment) -> Captured | Declined | Failed | Unclear:
        """Charge once: another call with the same key executes nothing more."""

    async def look_up(self, payment: Payment) -> Captured | Declined | NotKnown | Failed | Unclear:
        """What became of the charge with this payment's key."""

    async def refund(self, payment: Payment) -> Refunded | Failed | Unclear:
        """Pay a captured charge back, once; may be repeated until it says that it did."""
