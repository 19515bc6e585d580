# SPDX-License-Identifier: Apache-2.0
"""Decides charges and refunds; the payment token of a charge chooses its outcome.

==================== ========================================================================================
``ok``               charged
``decline``          declined, as is every token that is not in this table
``slow``             charged after 2 to 10 s, fixed by the reference; look-ups do not find it until then
``slow_no_refund``   charged as with ``slow``, but a refund is refused with 422
``timeout_executed`` charged immediately, but a charge call never gets a response
``never``            not charged, and a charge call never gets a response
``error_once``       the first call with a key fails with 500, the next is charged
``refuse``           not charged: every charge call is refused with 422
==================== ========================================================================================

Calls with the same idempotency key charge at most once.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import msgspec

from orderflow.payment_simulator.ledger import AlreadyRefunded, Charge, Ledger, Refund

_CHARGED = frozenset({"ok", "slow", "slow_no_refund", "timeout_executed", "error_once"})
_NOT_REFUNDABLE = frozenset({"slow_no_refund"})
_Amount = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class ChargeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/charges``. ``reference`` is the order id; ``amount`` is in minor units."""

    amount: _Amount
    currency: str
    payment_token: str
    reference: str


class RefundRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/refunds``. ``amount`` is in minor units and must be that of the charge."""

    charge_id: str
    amount: _Amount


class ErrorResponse(Exception):
    """The response has this status and this one-word error."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class NoResponse(Exception):
    """The request gets no response; its caller must time out."""


class SimulatedProvider:
    """A payment provider whose charges and refunds are in one ledger."""

    def __init__(self, ledger: Ledger, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.ledger = ledger
        self._sleep = sleep
        self._failed_once: set[str] = set()
        self._slow: dict[str, asyncio.Task[Charge]] = {}

    async def charge(self, key: str, request: ChargeRequest) -> Charge:
        """The charge with this key, stored now or before; raises ErrorResponse or NoResponse, as the token requires."""
        known = self.ledger.charges.get(key)
        if known is not None and (known.reference, known.amount) != (request.reference, request.amount):
            raise ErrorResponse(422, "idempotency_key_reused")
        match request.payment_token:
            case "never":
                raise NoResponse
            case "timeout_executed":
                self._execute(key, request)
                raise NoResponse
            case "refuse":
                raise ErrorResponse(422, "unusable_token")
            case "slow" | "slow_no_refund" if known is None:
                return await asyncio.shield(self._slow_charge(key, request))
            case "error_once" if known is None and key not in self._failed_once:
                self._failed_once.add(key)
                raise ErrorResponse(500, "simulated_error")
        return self._execute(key, request)

    def refund(self, key: str, request: RefundRequest) -> Refund:
        """The refund with this key, stored now or earlier; raises ErrorResponse."""
        charge = self.ledger.captured(request.charge_id)
        if charge is None:
            raise ErrorResponse(404, "unknown_charge")
        if charge.amount != request.amount:
            raise ErrorResponse(422, "wrong_amount")
        if not charge.refundable:
            raise ErrorResponse(422, "not_refundable")
        refund = Refund(
            key=key,
            refund_id=f"re_{uuid4().hex}",
            charge_id=charge.charge_id,
            reference=charge.reference,
            amount=charge.amount,
            at=datetime.now(UTC),
        )
        try:
            return self.ledger.refund(refund)
        except AlreadyRefunded as error:
            raise ErrorResponse(409, "already_refunded") from error

    def _slow_charge(self, key: str, request: ChargeRequest) -> asyncio.Task[Charge]:
        """The task of a slow charge; it continues when its caller disconnects, and later calls wait for it."""
        task = self._slow.get(key)
        if task is None:
            task = self._slow[key] = asyncio.ensure_future(self._execute_later(key, request))
            task.add_done_callback(lambda _: self._slow.pop(key))
        return task

    async def _execute_later(self, key: str, request: ChargeRequest) -> Charge:
        await self._sleep(slow_seconds(request.reference))
        return self._execute(key, request)

    def _execute(self, key: str, request: ChargeRequest) -> Charge:
        return self.ledger.charge(
            Charge(
                key=key,
                charge_id=f"ch_{uuid4().hex}",
                reference=request.reference,
                amount=request.amount,
                currency=request.currency,
                status="captured" if request.payment_token in _CHARGED else "declined",
                refundable=request.payment_token not in _NOT_REFUNDABLE,
                at=datetime.now(UTC),
            )
        )


def slow_seconds(reference: str) -> float:
    """How long a slow charge takes: 2 to 10 s, always the same for the same reference."""
    return 2 + zlib.crc32(reference.encode()) % 8001 / 1000
