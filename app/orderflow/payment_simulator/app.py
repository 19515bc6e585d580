# SPDX-License-Identifier: Apache-2.0
"""The simulator's HTTP API. It needs no credentials, because no money is moved.

``POST /v1/charges``, ``GET /v1/charges?key=``, ``POST /v1/refunds``, ``GET /v1/ledger``, ``GET /healthz``.

A plain ASGI application, because load tests call it: with Litestar a charge costs 96 to 108 µs of CPU instead of 49 to
55 µs (8,000 requests on 32 connections, CPU time of the server), and a start costs 0.5 s instead of 0.15 s.
"""

from collections.abc import Iterable
from urllib.parse import parse_qs

import msgspec

from orderflow.http.asgi import Receive, Scope, Send
from orderflow.payment_simulator.provider import (
    ChargeRequest,
    ErrorResponse,
    NoResponse,
    RefundRequest,
    SimulatedProvider,
)

_BODY_LIMIT_BYTES = 16 * 1024


class SimulatorApplication:
    """The provider as an ASGI application."""

    def __init__(self, provider: SimulatedProvider) -> None:
        self._provider = provider
        self._encode = msgspec.json.Encoder().encode
        self._decode_charge = msgspec.json.Decoder(ChargeRequest).decode
        self._decode_refund = msgspec.json.Decoder(RefundRequest).decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request, or send no response and wait until the caller disconnects."""
        try:
            status, content = await self._response(scope, receive)
        except ErrorResponse as error:
            status, content = error.status, {"error": error.error}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            status, content = 400, {"error": "invalid_body"}
        except NoResponse:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        body = self._encode(content)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _response(self, scope: Scope, receive: Receive) -> tuple[int, object]:
        """Status, content; raises ErrorResponse, NoResponse, or a decoder error for a body that does not match."""
        ledger = self._provider.ledger
        match scope["method"], scope["path"]:
            case "POST", "/v1/charges":
                request = self._decode_charge(await _body(receive))
                charge = await self._provider.charge(_key(scope), request)
                return (200 if charge.status == "captured" else 402), charge
            case "GET", "/v1/charges":
                known = ledger.charges.get(_query(scope, "key"))
                return (404, {"status": "not_known"}) if known is None else (200, known)
            case "POST", "/v1/refunds":
                return 200, self._provider.refund(_key(scope), self._decode_refund(await _body(receive)))
            case "GET", "/v1/ledger":
                return 200, {"charges": list(ledger.charges.values()), "refunds": list(ledger.refunds.values())}
            case "GET", "/healthz":
                return 200, {"status": "ok"}
        raise ErrorResponse(404, "unknown_path")


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _BODY_LIMIT_BYTES:
            raise ErrorResponse(413, "too_large")
    return body


def _key(scope: Scope) -> str:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    key = next((value for name, value in headers if name == b"idempotency-key"), b"")
    if not 0 < len(key) <= 255:
        raise ErrorResponse(400, "idempotency_key_missing")
    return key.decode("latin-1")


def _query(scope: Scope, name: str) -> str:
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [""])[0]
