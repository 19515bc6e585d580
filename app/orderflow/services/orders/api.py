# SPDX-License-Identifier: Apache-2.0
"""The orders API. An order is accepted when it and its event are committed; nothing else is waited for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.params import FromPath, HeaderParameter, JSONBody

from orderflow.http.api_keys import ApiKeys
from orderflow.http.app import application
from orderflow.http.auth import client_of, trace_of
from orderflow.http.problems import Problem
from orderflow.http.reader import ANSWER_SECONDS, Reader
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.group_commit import GroupCommit, Overloaded
from orderflow.services.orders import store
from orderflow.services.orders.place_orders import Accepted, OrderRequest, Placed, Refused, Result, Submission
from orderflow.services.orders.store import Order

_REFUSALS = {
    "idempotency_key_reused": 422,
    "unknown_sku": 422,
    "mixed_currencies": 422,
    "invalid": 422,
    "sold_out": 409,
}
_IdempotencyKey = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Names the request: the same key and body get the same answer for 72 hours.",
    ),
]


class OrderView(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its customer sees it. ``total_amount`` is in minor units; times are in UTC."""

    order_id: UUID
    status: str
    total_amount: int
    currency: str
    reason: str | None
    accepted_at: datetime
    final_at: datetime | None


class StepView(msgspec.Struct, frozen=True):
    """One step that an order took."""

    status: str
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersApi:
    """What the orders API needs. ``outbox_age`` gives the age in seconds of the oldest event that is not published."""

    writer: GroupCommit[Submission, Result]
    reader: Reader
    keys: ApiKeys | None
    instrumentation: Instrumentation
    outbox_age: Callable[[], float]
    outbox_max_age_seconds: float

    def app(self) -> Litestar:
        """The application."""
        in_flight: set[tuple[str, str]] = set()

        @post("/v1/orders", status_code=202, scope="orders:write", summary="Place an order")
        async def place(
            request: Request[Any, Any, Any],
            data: JSONBody[OrderRequest],
            idempotency_key: _IdempotencyKey,
        ) -> Response[Accepted]:
            """Accepts an order and answers at once; how it ends is told by GET /v1/orders/{order_id}."""
            name = (client_of(request).name, idempotency_key)
            trace = trace_of(request)
            if name in in_flight:
                raise self._refusal(409, "idempotency_key_in_flight", "the first request is not answered yet", 1)
            in_flight.add(name)
            try:
                return await self._place(Submission(*name, data, trace))
            finally:
                in_flight.discard(name)

        @get("/v1/orders/{order_id:uuid}", scope="orders:read", summary="Look at an order")
        async def show(order_id: FromPath[UUID]) -> OrderView:
            """Where the order stands."""
            order = await self._read(lambda transaction: store.read(transaction, order_id))
            if order is None:
                raise Problem(404, "not-found", "there is no such order")
            return _view(order)

        @get("/v1/orders/{order_id:uuid}/history", scope="orders:read", summary="Look at an order's history")
        async def history(order_id: FromPath[UUID]) -> list[StepView]:
            """Every step that the order took, oldest first."""
            steps = await self._read(lambda transaction: store.history(transaction, order_id))
            if not steps:
                raise Problem(404, "not-found", "there is no such order")
            return [StepView(*step) for step in steps]

        return application(
            [place, show, history],
            keys=self.keys,
            instrumentation=self.instrumentation,
            title="orderflow orders",
            description="Places orders and tells how they end.",
        )

    async def _place(self, submission: Submission) -> Response[Any]:
        if self.outbox_age() > self.outbox_max_age_seconds:
            raise self._refusal(503, "outbox_too_old", "orders cannot be passed on at the moment", 5)
        try:
            future = asyncio.wrap_future(self.writer.submit(submission))
            result = await asyncio.wait_for(asyncio.shield(future), ANSWER_SECONDS)
        except Overloaded:
            raise self._refusal(429, "overloaded", "too many requests at the same time", 1) from None
        except (InfrastructureError, TimeoutError):
            detail = "the order may or may not be stored: ask again with the same Idempotency-Key"
            raise self._refusal(503, "database_unavailable", detail, 1) from None
        if isinstance(result, Refused):
            raise self._refusal(_REFUSALS[result.reason], result.reason, result.detail)
        assert isinstance(result, Placed)
        return Response(result.response, status_code=202, media_type="application/json")

    def _refusal(self, status: int, reason: str, detail: str, retry_after: int | None = None) -> Problem:
        self.instrumentation.refused(reason)
        return Problem(status, reason.replace("_", "-"), detail, retry_after=retry_after)

    async def _read(self, query: Callable[[Any], Any]) -> Any:
        try:
            return await asyncio.wait_for(self.reader.read(query), ANSWER_SECONDS)
        except (InfrastructureError, TimeoutError):
            raise Problem(503, "database-unavailable", "try again", retry_after=1) from None


def _view(order: Order) -> OrderView:
    return OrderView(
        order_id=order.order_id,
        status=str(order.status),
        total_amount=order.total_amount,
        currency=order.currency,
        reason=order.reason,
        accepted_at=order.accepted_at,
        final_at=order.final_at,
    )
