# SPDX-License-Identifier: Apache-2.0
"""The stock API: sets and tells the stock of a SKU."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Litestar, Request, get, put
from litestar.params import JSONBody, PathParameter

from orderflow.events import SKU_PATTERN, Amount, Currency, Units
from orderflow.http.api_keys import ApiKeys
from orderflow.http.app import application
from orderflow.http.auth import trace_of
from orderflow.http.problems import Problem
from orderflow.http.reader import ANSWER_SECONDS, Reader
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.group_commit import GroupCommit, Overloaded
from orderflow.services.inventory import store
from orderflow.services.inventory.set_stock import StockUpdate
from orderflow.services.inventory.store import Stock

_SkuInPath = Annotated[str, PathParameter(pattern=SKU_PATTERN, description="Stock keeping unit.")]


class StockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/stock/{sku}``: units on hand, sold ones included, and the price of one."""

    on_hand: Units
    unit_price: Amount
    currency: Currency


class StockView(msgspec.Struct, frozen=True):
    """The stock of a SKU: ``on_hand`` = ``available`` + ``reserved`` + ``sold``, always."""

    sku: str
    on_hand: int
    available: int
    reserved: int
    sold: int
    unit_price: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StockApi:
    """What the stock API needs."""

    writer: GroupCommit[StockUpdate, Stock | None]
    reader: Reader
    keys: ApiKeys | None
    instrumentation: Instrumentation

    def app(self) -> Litestar:
        """The application."""

        @put("/v1/stock/{sku:str}", scope="stock:write", summary="Set the stock")
        async def set_stock(
            request: Request[Any, Any, Any], sku: _SkuInPath, data: JSONBody[StockRequest]
        ) -> StockView:
            """Sets the units on hand and the price; 409 when more than that is reserved and sold already."""
            stock = await self._put(
                StockUpdate(
                    sku=sku,
                    on_hand=data.on_hand,
                    unit_price=data.unit_price,
                    currency=data.currency,
                    trace=trace_of(request),
                )
            )
            if stock is None:
                raise Problem(409, "too-few", "more units than that are reserved and sold already")
            return _view(stock)

        @get("/v1/stock/{sku:str}", scope="stock:read", summary="Look at the stock")
        async def show(sku: _SkuInPath) -> StockView:
            """The stock of one SKU."""
            stock = await self._read(lambda transaction: store.read(transaction, sku))
            if stock is None:
                raise Problem(404, "not-found", "there is no such SKU")
            return _view(stock)

        return application(
            [set_stock, show],
            keys=self.keys,
            instrumentation=self.instrumentation,
            title="orderflow stock",
            description="Sets and tells the stock.",
        )

    async def _put(self, update: StockUpdate) -> Stock | None:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.writer.submit(update)), ANSWER_SECONDS)
        except Overloaded:
            raise Problem(429, "overloaded", "too many requests at the same time", retry_after=1) from None
        except (InfrastructureError, TimeoutError):
            raise _unavailable() from None

    async def _read(self, query: Callable[[Any], Stock | None]) -> Stock | None:
        try:
            return await asyncio.wait_for(self.reader.read(query), ANSWER_SECONDS)
        except (InfrastructureError, TimeoutError):
            raise _unavailable() from None


def _unavailable() -> Problem:
    return Problem(503, "database-unavailable", "try again", retry_after=1)


def _view(stock: Stock) -> StockView:
    return StockView(
        stock.sku, stock.on_hand, stock.available, stock.reserved, stock.sold, stock.unit_price, stock.currency
    )
