# SPDX-License-Identifier: Apache-2.0
"""The decisions of the simulated provider."""

import asyncio

import pytest

from orderflow.payment_simulator.ledger import Ledger
from orderflow.payment_simulator.provider import (
    ChargeRequest,
    ErrorResponse,
    NoResponse,
    RefundRequest,
    SimulatedProvider,
    slow_seconds,
)


def charge(token: str) -> ChargeRequest:
    return ChargeRequest(amount=1999, currency="EUR", payment_token=token, reference="order-1")


def test_a_slow_charge_is_executed_once_also_when_its_caller_leaves() -> None:
    pauses: list[float] = []
    gate = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await gate.wait()

    async def main() -> None:
        provider = SimulatedProvider(Ledger(), sleep=sleep)
        cancelled = asyncio.ensure_future(provider.charge("k1", charge("slow")))
        patient = asyncio.ensure_future(provider.charge("k1", charge("slow")))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert provider.ledger.charges == {}
        gate.set()
        assert (await patient).status == "captured"
        assert (await provider.charge("k1", charge("slow"))) is (await patient)

    asyncio.run(main())
    assert pauses == [slow_seconds("order-1")]


def test_slow_takes_2_to_10_seconds_and_always_the_same() -> None:
    seconds = [slow_seconds(f"order-{number}") for number in range(1000)]
    assert min(seconds) >= 2
    assert max(seconds) <= 10
    assert max(seconds) - min(seconds) > 7
    assert seconds[0] == slow_seconds("order-0")


def test_a_charge_that_is_not_refundable_is_captured_and_its_refund_refused() -> None:
    async def at_once(_seconds: float) -> None: ...

    provider = SimulatedProvider(Ledger(), sleep=at_once)
    made = asyncio.run(provider.charge("k1", charge("slow_no_refund")))
    assert made.status == "captured"
    with pytest.raises(ErrorResponse, match="not_refundable"):
        provider.refund("k1", RefundRequest(charge_id=made.charge_id, amount=made.amount))


def test_a_token_can_leave_the_caller_without_a_response_or_fail() -> None:
    provider = SimulatedProvider(Ledger())
    for token in ("never", "timeout_executed"):
        with pytest.raises(NoResponse):
            asyncio.run(provider.charge(token, charge(token)))
    with pytest.raises(ErrorResponse, match="simulated_error"):
        asyncio.run(provider.charge("error_once", charge("error_once")))
    assert list(provider.ledger.charges) == ["timeout_executed"]
