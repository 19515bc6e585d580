# SPDX-License-Identifier: Apache-2.0
"""The interface of a payment provider, and the results of its calls."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol
from uuid import UUID

UNREACHABLE, TIMEOUT, CONNECTION_LOST = "unreachable", "timeout", "connection_lost"
"""Reasons of a call without any response; other reasons tell of a response that was of no use."""
ACCESS_DENIED = "access_denied"
"""The provider refused our credentials, whatever the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """The payment that a call concerns. ``amount`` is in minor units; ``trace`` are trace headers to send."""

    order_id: UUID
    amount: int
    currency: str
    payment_token: str
    charge_id: str | None = None
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def charge_key(self) -> str:
        """The idempotency key of the charge: one per order."""
        return f"{self.order_id}:charge"

    @property
    def refund_key(self) -> str:
        """The idempotency key of the refund: one per order."""
        return f"{self.order_id}:refund"

    def __repr__(self) -> str:
        return f"Payment(order_id={self.order_id})"


@dataclass(frozen=True, slots=True)
class Captured:
    """The charge was executed."""

    outcome: ClassVar[str] = "captured"
    charge_id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider refused the charge; the result is final."""

    outcome: ClassVar[str] = "declined"


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider will not execute this call, however often it is made; ``reason`` is one word.

    Not ``certain`` when it may only mean that an earlier call with the same key is still running.
    """

    outcome: ClassVar[str] = "refused"
    reason: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class NotKnown:
    """The provider has not executed a charge with this key yet."""

    outcome: ClassVar[str] = "not_known"


@dataclass(frozen=True, slots=True)
class Refunded:
    """The charge was refunded."""

    outcome: ClassVar[str] = "refunded"


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider responded with an error or could not be reached: nothing was executed. Retry with the same key."""

    outcome: ClassVar[str] = "failed"
    reason: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """The call got no usable response, so it may have been executed. Look it up."""

    outcome: ClassVar[str] = "unclear"
    reason: str


ProviderResult = Captured | Declined | Refused | NotKnown | Refunded | Failed | Unclear


class PaymentProvider(Protocol):
    """A payment provider. Every call ends in bounded time; a failure of provider or network is a result."""

    def connections(self) -> AbstractAsyncContextManager[object]:
        """The connections that the calls share; entered in their event loop before the first call."""

    async def charge(self, payment: Payment) -> Captured | Declined | Refused | Failed | Unclear:
        """Charge once: a repeated call with the same key executes nothing and returns the same result."""

    async def look_up(self, payment: Payment) -> Captured | Declined | NotKnown | Failed | Unclear:
        """The result of the charge with this payment's key."""

    async def refund(self, payment: Payment) -> Refunded | Refused | Failed | Unclear:
        """Refund a captured charge once; may be repeated until it succeeds or is refused."""
