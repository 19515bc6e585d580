# SPDX-License-Identifier: Apache-2.0
import asyncio
from uuid import UUID

import pytest

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.services.payments.http_provider import HttpPaymentProvider, _charged, _looked_up, _refunded
from orderflow.services.payments.provider import (
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

CAPTURED, DECLINED = b'{"status":"captured","charge_id":"ch_1","other":1}', b'{"status":"declined"}'
PAYMENT = Payment(order_id=UUID(int=7), amount=1, currency="EUR", payment_token="4111")


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (200, CAPTURED, Captured("ch_1")),
        (201, CAPTURED, Captured("ch_1")),
        (402, DECLINED, Declined()),
        (200, DECLINED, Unclear("unreadable_response")),
        (200, b'{"status":"captured"}', Unclear("unreadable_response")),
        (500, b"", Failed("status_500")),
        (503, CAPTURED, Failed("status_503")),
        (402, b"", Declined()),
        (400, b"", Refused("status_400")),
        (422, b'{"error":"card_expired"}', Refused("card_expired")),
        (422, b'{"error":"Card expired on 2024-01-01"}', Refused("status_422")),
        (404, b'{"error":"unknown_token"}', Refused("unknown_token")),
        (404, b"<html>no such page</html>", Failed("status_404")),
        (409, b'{"error":"in_progress"}', Unclear("in_progress")),
        (401, b"", Failed("access_denied")),
        (403, CAPTURED, Failed("access_denied")),
        (405, b"", Failed("status_405")),
        (408, b"", Failed("status_408")),
        (429, b'{"error":"too_many"}', Failed("status_429")),
    ],
)
def test_a_charge_is_settled_only_by_a_readable_result_of_the_provider(
    status: int, body: bytes, result: ProviderResult
) -> None:
    assert _charged(status, body) == result


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (200, CAPTURED, Captured("ch_1")),
        (200, DECLINED, Declined()),
        (404, b'{"status":"not_known"}', NotKnown()),
        (500, b"", Unclear("status_500")),
        (429, b'{"status":"not_known"}', Unclear("status_429")),
        (422, b"", Unclear("status_422")),
        (403, b"", Unclear("access_denied")),
    ],
)
def test_a_look_up_returns_the_result_of_a_charge(status: int, body: bytes, result: ProviderResult) -> None:
    assert _looked_up(status, body) == result


UNREADABLE = {
    "another page": b"<html>no such page</html>",
    "not utf-8": b'{"status":"captured","charge_id":"\xff"}',
    "thousands deep": b'{"more":' + b"[" * 100_000,
    "a charge id that no database stores": b'{"status":"captured","charge_id":"\\u0000"}',
    "an endless charge id": b'{"status":"captured","charge_id":"' + b"9" * 256 + b'"}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_response_leaves_a_charge_unknown(body: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()

    async def ask() -> ProviderResult:
        async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            gateway = HttpPaymentProvider(
                url,
                timeout_seconds=5,
                instrumentation=Instrumentation(),
                clock=SystemClock(),
            )
            async with gateway.connections():
                return await gateway.look_up(PAYMENT)

    assert asyncio.run(ask()) == Unclear("unreadable_response")


def test_a_refund_is_done_when_the_provider_says_so() -> None:
    assert _refunded(200, b'{"status":"refunded"}') == Refunded()
    assert _refunded(200, DECLINED) == Failed("status_200")
    assert _refunded(503, b"") == Failed("status_503")


def test_a_refund_is_refused_for_good_when_the_provider_says_so() -> None:
    assert _refunded(422, b"") == Refused("status_422")
    assert _refunded(404, b'{"error":"unknown_charge"}') == Refused("unknown_charge")
    assert _refunded(404, b"") == Failed("status_404"), "a wrong URL refunds nothing, and is put right"
    assert _refunded(409, b'{"error":"already_refunded"}') == Refused("already_refunded", certain=False)


def test_keys_depend_on_order_and_purpose_alone() -> None:
    assert PAYMENT.charge_key == "00000000-0000-0000-0000-000000000007:charge"
    assert PAYMENT.refund_key == "00000000-0000-0000-0000-000000000007:refund"


def test_a_payment_that_is_printed_shows_no_token() -> None:
    assert "4111" not in repr(PAYMENT)
