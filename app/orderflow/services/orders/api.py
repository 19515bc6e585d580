# SPDX-License-Identifier: Apache-2.0
"""The orders API. An order is accepted when it and its event are committed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Litestar, Response, get, post
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter, JSONBody, PathParameter
from litestar.types import Scope

from orderflow.http.api_database import ApiDatabase
from orderflow.http.api_keys import ApiKeys, Client
from orderflow.http.app import application
from orderflow.http.asgi import trace_of
from orderflow.http.body import JsonRequest
from orderflow.http.early_refusal import EarlyRefusal
from orderflow.http.openapi import READ_PROBLEMS, WRITE_PROBLEMS, documented
from orderflow.http.problems import (
    CLIENT_GONE,
    INTERNAL_ERROR,
    INVALID,
    NOT_FOUND,
    OUTCOME_UNKNOWN,
    Problem,
    ProblemType,
    problem_of,
)
from orderflow.http.rate_limit import RateLimit
from orderflow.instrumentation import REFUSALS, Instrumentation
from orderflow.services.orders import store
from orderflow.services.orders.admission import Admission
from orderflow.services.orders.domain import Status
from orderflow.services.orders.place_orders import (
    Accepted,
    OrderRequest,
    Placed,
    Refused,
    RequestedLine,
    Result,
    Submission,
)
from orderflow.services.orders.store import Order

IN_FLIGHT = ProblemType(
    "idempotency-key-in-flight", 409, "A request with this Idempotency-Key has no response yet.", retry_after=1
)
SOLD_OUT = ProblemType("sold-out", 409, "There is not enough stock of an item.")
UNKNOWN_SKU = ProblemType("unknown-sku", 422, "There is no such SKU.")
MIXED_CURRENCIES = ProblemType("mixed-currencies", 422, "The items are priced in different currencies.")
KEY_REUSED = ProblemType("idempotency-key-reused", 422, "This Idempotency-Key was used with another body.")
_ORDERS = "/v1/orders"
BACKLOG_TOO_LONG = ProblemType("backlog-too-long", 503, "A new order would not be decided in time.", retry_after=5)
_PLACE_PROBLEMS = (*WRITE_PROBLEMS, IN_FLIGHT, SOLD_OUT, UNKNOWN_SKU, MIXED_CURRENCIES, KEY_REUSED, BACKLOG_TOO_LONG)
_BY_REASON = {problem.reason: problem for problem in _PLACE_PROBLEMS}
_NO_REFUSALS = frozenset({CLIENT_GONE, INTERNAL_ERROR, OUTCOME_UNKNOWN})
_WRITE = "orders:write"
_READ = "orders:read"
_READ_ALL = "orders:read-all"

_ID = UUID("0192c0a8-6f43-7000-8000-0000000000a1")
_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
_REQUEST = OrderRequest("customer-1", (RequestedLine("sku-1", 2),), "ok")
_LINKS = {"get_order": "order_id", "get_order_history": "order_id"}
_ACCEPTED = Accepted(str(_ID), "accepted", 3998, "EUR")
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_OrderId = Annotated[UUID, PathParameter(description="The order's id.", examples=[Example(value=str(_ID))])]
_IdempotencyKey = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Names the request: the same key and body get the same response until the key expires.",
        examples=[Example(value="cart-4711")],
    ),
]


class OrderView(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its customer sees it. ``total_amount`` is in minor units; times are in UTC."""

    order_id: UUID
    status: Status
    total_amount: int
    currency: str
    reason: str | None
    accepted_at: _Time
    final_at: _Time | None


class StepView(msgspec.Struct, frozen=True):
    """One status that an order reached."""

    status: Status
    reason: str | None
    at: _Time


_ORDER = OrderView(
    order_id=_ID,
    status=Status.CONFIRMED,
    total_amount=3998,
    currency="EUR",
    reason=None,
    accepted_at=_AT,
    final_at=_AT,
)
_STEPS = [StepView(Status.ACCEPTED, None, _AT), StepView(Status.RESERVED, None, _AT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersApi:
    """Builds the orders API from its dependencies."""

    database: ApiDatabase[Submission, Result]
    keys: ApiKeys | None
    instrumentation: Instrumentation
    admission: Admission
    rate_limit: RateLimit | None = None
    _in_flight: set[tuple[str, str]] = field(default_factory=set, init=False)

    def early_refusal(self) -> EarlyRefusal:
        """The admission: refuses orders that would not be decided in time."""
        return EarlyRefusal("POST", _ORDERS, BACKLOG_TOO_LONG, self._check_admission)

    def app(self) -> Litestar:
        """The application, without the admission."""

        @post(
            _ORDERS,
            status_code=202,
            summary="Place an order",
            **documented(_WRITE, _PLACE_PROBLEMS, request=_REQUEST, response=_ACCEPTED, links=_LINKS),
        )
        async def place_order(
            request: JsonRequest, data: JSONBody[OrderRequest], idempotency_key: _IdempotencyKey
        ) -> Response[Accepted]:
            """Accepts an order and responds immediately. GET /v1/orders/{order_id} returns its status."""
            submission = Submission(request.user.name, idempotency_key, data, trace_of(request.scope))
            with self._one_at_a_time(submission):
                return await self._place(submission)

        @get("/v1/orders/{order_id:uuid}", summary="Get an order", **documented(_READ, READ_PROBLEMS, response=_ORDER))
        async def get_order(request: JsonRequest, order_id: _OrderId) -> OrderView:
            """The current status of an order that was placed with a key of the same client."""
            client = _limited_to(request.user)
            order = await self.database.read(lambda transaction: store.read(transaction, order_id, client=client))
            if order is None:
                raise Problem(NOT_FOUND, "there is no such order")
            return _view(order)

        @get(
            "/v1/orders/{order_id:uuid}/history",
            summary="Get an order's history",
            **documented(_READ, READ_PROBLEMS, response=_STEPS),
        )
        async def get_order_history(request: JsonRequest, order_id: _OrderId) -> list[StepView]:
            """Every status that the order reached, oldest first, for the same clients."""
            client = _limited_to(request.user)
            steps = await self.database.read(lambda transaction: store.history(transaction, order_id, client=client))
            if not steps:
                raise Problem(NOT_FOUND, "there is no such order")
            return [StepView(Status(status), reason, at) for status, reason, at in steps]

        return application(
            [place_order, get_order, get_order_history],
            keys=self.keys,
            rate_limit=self.rate_limit,
            title="orderflow orders",
            description="Places orders and shows their status.",
            after_exception=[self._count_refusal],
        )

    @contextmanager
    def _one_at_a_time(self, submission: Submission) -> Iterator[None]:
        """Refuses a request while another one with the same client and key has no response."""
        name = (submission.client, submission.key)
        if name in self._in_flight:
            raise Problem(IN_FLIGHT)
        self._in_flight.add(name)
        try:
            yield
        finally:
            self._in_flight.discard(name)

    def _check_admission(self) -> int | None:
        refusal = self.admission.check()
        if refusal is None:
            return None
        self.instrumentation.refused(refusal.reason)
        return refusal.retry_after

    async def _place(self, submission: Submission) -> Response[Accepted]:
        result = await self.database.write(submission)
        if isinstance(result, Refused):
            raise Problem(_BY_REASON[result.reason], result.detail)
        assert isinstance(result, Placed)
        response: Response[Any] = Response(result.response, status_code=202, media_type="application/json")
        return response

    async def _count_refusal(self, error: Exception, scope: Scope) -> None:
        """Count a refused order, whichever component refused it."""
        kind = problem_of(error).kind
        options = getattr(scope.get("route_handler"), "opt", {})  # none when no route matched
        if options.get("scope") == _WRITE and kind not in _NO_REFUSALS:
            self.instrumentation.refused(kind.reason if kind.reason in REFUSALS else INVALID.reason)


def _limited_to(client: Client) -> str | None:
    """The only client whose orders this one may read; None when it may read those of every client."""
    return None if _READ_ALL in client.scopes else client.name


def _view(order: Order) -> OrderView:
    return OrderView(
        order_id=order.order_id,
        status=order.status,
        total_amount=order.total_amount,
        currency=order.currency,
        reason=order.reason,
        accepted_at=order.accepted_at,
        final_at=order.final_at,
    )
