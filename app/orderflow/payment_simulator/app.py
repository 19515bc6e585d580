# SPDX-License-Identifier: Apache-2.0
"""A payment provider for tests and demonstrations, as a process of its own; the payment token decides the outcome.

==================== ========================================================================================
``ok``               charged
``decline``          declined; so is every token that is not in this table
``slow``             charged after 2 to 10 s, the same for the same reference; until then nobody knows of it
``timeout_executed`` charged at once, but a charge call never gets an answer
``never``            nothing happens, and no answer comes
``error_once``       the first call of a key fails with 500, the next is charged
==================== ========================================================================================

A key charges at most once, whatever is called how often. ``POST /v1/charges``, ``GET /v1/charges?key=``,
``POST /v1/refunds``, ``GET /v1/ledger``, ``GET /healthz``. Not for real money: it asks for no credentials.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec
import uvicorn

from orderflow.payment_simulator.ledger import AlreadyRefunded, Charge, Ledger, Refund

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, object]
_MOST_BODY_BYTES = 16 * 1024
_Amount = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class ChargeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/charges``. ``reference`` is the order; ``amount`` is in minor units."""

    amount: _Amount
    currency: str
    payment_token: str
    reference: str


class RefundRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/refunds``: always the whole amount."""

    charge_id: str
    amount: _Amount


class Refused(Exception):
    """The request gets this status and this one-word error."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class NoAnswer(Exception):
    """The caller is to wait until it gives up."""


class Provider:
    """Decides charges and refunds; one per ledger."""

    def __init__(self, ledger: Ledger, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.ledger = ledger
        self._sleep = sleep
        self._failed_once: set[str] = set()
        self._slow: dict[str, asyncio.Task[Charge]] = {}

    async def charge(self, key: str, request: ChargeRequest) -> Charge:
        """What became of the charge with this key. Raises Refused, or NoAnswer after doing what the token says."""
        known = self.ledger.charges.get(key)
        if known is not None and (known.reference, known.amount) != (request.reference, request.amount):
            raise Refused(422, "idempotency_key_reused")
        match request.payment_token:
            case "never":
                raise NoAnswer
            case "timeout_executed":
                self._execute(key, request)
                raise NoAnswer
            case "slow" if known is None:
                return await asyncio.shield(self._slowly(key, request))
            case "error_once" if known is None and key not in self._failed_once:
                self._failed_once.add(key)
                raise Refused(500, "simulated_error")
        return self._execute(key, request)

    def refund(self, key: str, request: RefundRequest) -> Refund:
        """The refund with this key, executed now or earlier; raises Refused."""
        charge = self.ledger.captured(request.charge_id)
        if charge is None:
            raise Refused(404, "unknown_charge")
        if charge.amount != request.amount:
            raise Refused(422, "wrong_amount")
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
            raise Refused(409, "already_refunded") from error

    def _slowly(self, key: str, request: ChargeRequest) -> asyncio.Task[Charge]:
        """The one execution of a slow charge; it goes on when its caller has gone, and others join it."""
        task = self._slow.get(key)
        if task is None:
            task = self._slow[key] = asyncio.ensure_future(self._execute_later(key, request))
            task.add_done_callback(lambda _: self._slow.pop(key))
        return task

    async def _execute_later(self, key: str, request: ChargeRequest) -> Charge:
        await self._sleep(slow_seconds(request.reference))
        return self._execute(key, request)

    def _execute(self, key: str, request: ChargeRequest) -> Charge:
        charged = request.payment_token in {"ok", "slow", "timeout_executed", "error_once"}
        return self.ledger.charge(
            Charge(
                key=key,
                charge_id=f"ch_{uuid4().hex}",
                reference=request.reference,
                amount=request.amount,
                currency=request.currency,
                status="captured" if charged else "declined",
                at=datetime.now(UTC),
            )
        )


def slow_seconds(reference: str) -> float:
    """How long a slow charge takes: 2 to 10 s, always the same for the same reference."""
    return 2 + zlib.crc32(reference.encode()) % 8001 / 1000


class Simulator:
    """The provider as an ASGI application."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._encode = msgspec.json.Encoder().encode
        self._decode_charge = msgspec.json.Decoder(ChargeRequest).decode
        self._decode_refund = msgspec.json.Decoder(RefundRequest).decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or none at all."""
        try:
            status, content = await self._answer(scope, receive)
        except Refused as refused:
            status, content = refused.status, {"error": refused.error}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            status, content = 400, {"error": "invalid_body"}
        except NoAnswer:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        body = self._encode(content)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
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
        raise Refused(404, "unknown_path")


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _MOST_BODY_BYTES:
            raise Refused(413, "too_large")
    return body


def _key(scope: Scope) -> str:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    key = next((value for name, value in headers if name == b"idempotency-key"), b"")
    if not 0 < len(key) <= 255:
        raise Refused(400, "idempotency_key_missing")
    return key.decode("latin-1")


def _query(scope: Scope, name: str) -> str:
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [""])[0]


def run(host: str, port: int, ledger: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT. With a ledger file, executed charges survive the death of the process."""
    book = Ledger(ledger)
    try:
        uvicorn.run(
            Simulator(Provider(book)),
            host=host,
            port=port,
            http="httptools",
            loop="uvloop",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
    finally:
        book.close()
