# SPDX-License-Identifier: Apache-2.0
"""The stock API: sets and shows the stock of a SKU."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from litestar import Litestar, get, put
from litestar.openapi.spec import Example
from litestar.params import JSONBody, PathParameter

from orderflow.events import SKU_PATTERN, Amount, Currency, Units
from orderflow.http.api_database import ApiDatabase
from orderflow.http.api_keys import ApiKeys
from orderflow.http.app import application
from orderflow.http.asgi import trace_of
from orderflow.http.body import JsonRequest
from orderflow.http.openapi import READ_PROBLEMS, WRITE_PROBLEMS, documented
from orderflow.http.problems import INVALID, NOT_FOUND, Problem, ProblemType
from orderflow.services.inventory import store
from orderflow.services.inventory.set_stock import StockUpdate
from orderflow.services.inventory.store import Stock

TOO_FEW = ProblemType("too-few", 409, "More units are already reserved or sold.")
_SET_PROBLEMS = (*WRITE_PROBLEMS, TOO_FEW)
_SHOW_PROBLEMS = (*READ_PROBLEMS, INVALID)
_SkuInPath = Annotated[
    str,
    PathParameter(pattern=SKU_PATTERN, description="Stock keeping unit.", examples=[Example(value="sku-1")]),
]


class StockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/stock/{sku}``: units on hand, including sold ones, and the price of one unit."""

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


_REQUEST = StockRequest(100, 1999, "EUR")
_STOCK = StockView("sku-1", 100, 90, 7, 3, 1999, "EUR")


@dataclass(frozen=True, slots=True, kw_only=True)
class StockApi:
    """Builds the stock API from its dependencies."""

    database: ApiDatabase[StockUpdate, Stock | None]
    keys: ApiKeys | None

    def app(self) -> Litestar:
        """The application."""

        @put(
            "/v1/stock/{sku:str}",
            summary="Set the stock",
            **documented("stock:write", _SET_PROBLEMS, request=_REQUEST, response=_STOCK),
        )
        async def set_stock(request: JsonRequest, sku: _SkuInPath, data: JSONBody[StockRequest]) -> StockView:
            """Sets the units on hand and the price; refused when more units are already reserved or sold."""
            update = StockUpdate(
                sku=sku,
                on_hand=data.on_hand,
                unit_price=data.unit_price,
                currency=data.currency,
                trace=trace_of(request.scope),
            )
            stock = await self.database.write(update)
            if stock is None:
                raise Problem(TOO_FEW)
            return _view(stock)

        @get(
            "/v1/stock/{sku:str}",
            summary="Get the stock",
            **documented("stock:read", _SHOW_PROBLEMS, response=_STOCK),
        )
        async def get_stock(sku: _SkuInPath) -> StockView:
            """The stock of one SKU."""
            stock = await self.database.read(lambda transaction: store.read(transaction, sku))
            if stock is None:
                raise Problem(NOT_FOUND, "there is no such SKU")
            return _view(stock)

        return application(
            [set_stock, get_stock],
            keys=self.keys,
            title="orderflow stock",
            description="Sets and shows the stock.",
        )


def _view(stock: Stock) -> StockView:
    return StockView(
        stock.sku, stock.on_hand, stock.available, stock.reserved, stock.sold, stock.unit_price, stock.currency
    )
