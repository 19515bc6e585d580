# SPDX-License-Identifier: Apache-2.0
"""A payment provider over HTTP, with the interface of the payment simulator.

``POST /v1/charges`` and ``POST /v1/refunds`` with ``Idempotency-Key``; ``GET /v1/charges?key=…``.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal, TypeVar

import aiohttp
import msgspec
from yarl import URL

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock
from orderflow.services.payments.provider import (
    CONNECTION_LOST,
    TIMEOUT,
    UNREACHABLE,
    Captured,
    Declined,
    Failed,
    NotKnown,
    Payment,
    ProviderResult,
    Refunded,
    Refused,
    Unclear,
)
from orderflow.services.payments.refusals import refusal

Result = TypeVar("Result", bound=ProviderResult)


class _Body(msgspec.Struct, frozen=True):
    """The fields of the provider's responses that are used."""

    status: Literal["captured", "declined", "not_known", "refunded"]
    charge_id: Annotated[str, msgspec.Meta(max_length=255, pattern="^[^\\x00]*$")] = ""  # PostgreSQL stores no NUL


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    operation: str
    method: str
    url: URL
    key: str | None = None
    body: bytes | None = None


_decode = msgspec.json.Decoder(_Body).decode


class HttpPaymentProvider:
    """A ``PaymentProvider`` over HTTP, with one pool of kept-alive connections, open while ``connections`` is entered.

    ``timeout_seconds`` limits every call, from connecting to the last byte of the response.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        instrumentation: Instrumentation,
        clock: Clock,
    ) -> None:
        base = URL(url.rstrip("/"))
        self._charges, self._refunds = base / "v1/charges", base / "v1/refunds"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._instrumentation = instrumentation
        self._clock = clock
        self._session: aiohttp.ClientSession

    @asynccontextmanager
    async def connections(self) -> AsyncGenerator[object]:
        """Opens the pool in the event loop that enters it."""
        # The caller limits the number of concurrent calls, so the pool has no limit.
        async with aiohttp.ClientSession(
            timeout=self._timeout, connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        ) as self._session:
            yield self

    async def charge(self, payment: Payment) -> Captured | Declined | Refused | Failed | Unclear:
        """See ``PaymentProvider``."""
        body = {
            "amount": payment.amount,
            "currency": payment.currency,
            "payment_token": payment.payment_token,
            "reference": str(payment.order_id),
        }
        request = _Request(
            operation="charge",
            method="POST",
            url=self._charges,
            key=payment.charge_key,
            body=msgspec.json.encode(body),
        )
        return await self._call(request, payment, _charged)

    async def look_up(self, payment: Payment) -> Captured | Declined | NotKnown | Failed | Unclear:
        """See ``PaymentProvider``."""
        url = self._charges.with_query(key=payment.charge_key)
        return await self._call(_Request(operation="look_up", method="GET", url=url), payment, _looked_up)

    async def refund(self, payment: Payment) -> Refunded | Refused | Failed | Unclear:
        """See ``PaymentProvider``."""
        body = {"charge_id": payment.charge_id, "amount": payment.amount}
        request = _Request(
            operation="refund",
            method="POST",
            url=self._refunds,
            key=payment.refund_key,
            body=msgspec.json.encode(body),
        )
        return await self._call(request, payment, _refunded)

    async def _call(
        self, request: _Request, payment: Payment, read: Callable[[int, bytes], Result]
    ) -> Result | Failed | Unclear:
        """Make one call and report its outcome, even when it raises."""
        observer = self._instrumentation.calling(request.operation, payment.trace)
        started = self._clock.monotonic()
        outcome = "unclear"
        try:
            result = await self._send(request, dict(observer.headers()), read)
            outcome = result.outcome
        finally:
            observer.finished(outcome)
            self._instrumentation.payment_call(request.operation, outcome, self._clock.monotonic() - started)
        return result

    async def _send(
        self, request: _Request, headers: dict[str, str], read: Callable[[int, bytes], Result]
    ) -> Result | Failed | Unclear:
        if request.key is not None:
            headers |= {"Idempotency-Key": request.key, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                request.method, request.url, data=request.body, headers=headers, allow_redirects=False
            ) as response:
                return read(response.status, await response.read())
        except aiohttp.ClientConnectorError:
            return Failed(UNREACHABLE)
        except TimeoutError:
            return Unclear(TIMEOUT)
        except aiohttp.ClientError:
            return Unclear(CONNECTION_LOST)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Unclear("unreadable_response")


def _charged(status: int, body: bytes) -> Captured | Declined | Refused | Failed | Unclear:
    """The result of a charge. A conflict may be our own earlier call that still runs, so it is looked up."""
    if status in {HTTPStatus.OK, HTTPStatus.CREATED}:
        return _captured(_decode(body))
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return Declined()
    refused = refusal(status, body)
    return Unclear(refused.reason) if isinstance(refused, Refused) and not refused.certain else refused


def _looked_up(status: int, body: bytes) -> Captured | Declined | NotKnown | Unclear:
    if status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
        return Unclear(refusal(status, b"").reason)
    charge = _decode(body)
    match charge.status:
        case "not_known":
            return NotKnown()
        case "declined":
            return Declined()
        case _:
            return _captured(charge)


def _refunded(status: int, body: bytes) -> Refunded | Refused | Failed | Unclear:
    if status in {HTTPStatus.OK, HTTPStatus.CREATED} and _decode(body).status == "refunded":
        return Refunded()
    return refusal(status, body)


def _captured(charge: _Body) -> Captured | Unclear:
    if charge.status == "captured" and charge.charge_id:
        return Captured(charge.charge_id)
    return Unclear("unreadable_response")
