# SPDX-License-Identifier: Apache-2.0
"""The stock API: sets and shows the stock of a SKU."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from litestar import Litestar, Response, get, put
from litestar.openapi.spec import Example, OpenAPIHeader, OpenAPIType, Schema
from litestar.params import HeaderParameter, JSONBody, PathParameter

from orderflow.events import SKU_PATTERN, Amount, Currency, Units
from orderflow.http.api_database import ApiDatabase
from orderflow.http.api_keys import ApiKeys
from orderflow.http.app import application
from orderflow.http.asgi import trace_of
from orderflow.http.body import JsonRequest
from orderflow.http.entity_tags import TAGS_PATTERN, entity_tag, versions
from orderflow.http.openapi import READ_PROBLEMS, WRITE_PROBLEMS, documented
from orderflow.http.problems import INVALID, NOT_FOUND, Problem, ProblemType
from orderflow.http.rate_limit import RateLimit
from orderflow.services.inventory import store
from orderflow.services.inventory.condition import Condition
from orderflow.services.inventory.set_stock import StockUpdate
from orderflow.services.inventory.store import PutRefusal, Stock

TOO_FEW = ProblemType("too-few", 409, "More units are already reserved or sold.")
CHANGED = ProblemType("precondition-failed", 412, "The stock is not as If-Match or If-None-Match says; get it again.")
_REFUSALS: dict[PutRefusal, ProblemType] = {"too_few": TOO_FEW, "condition_failed": CHANGED}
_SET_PROBLEMS = (*WRITE_PROBLEMS, *_REFUSALS.values())
_SHOW_PROBLEMS = (*READ_PROBLEMS, INVALID)
_SkuInPath = Annotated[
    str,
    PathParameter(pattern=SKU_PATTERN, description="Stock keeping unit.", examples=[Example(value="sku-1")]),
]
_ETAG = {
    "ETag": OpenAPIHeader(
        schema=Schema(type=OpenAPIType.STRING),
        required=True,
        description="Changes with every change of the stock, also with each reservation and sale.",
    )
}
_IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        pattern=TAGS_PATTERN,
        max_length=1000,
        description="Set the stock only if its ETag is still one of these; * if the SKU exists.",
        examples=[Example(value='"7"')],
    ),
]
_IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-None-Match",
        pattern=r"^\*$",
        description="With * set the stock only if the SKU does not exist.",
        examples=[Example(value="*")],
    ),
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

    database: ApiDatabase[StockUpdate, Stock | PutRefusal]
    keys: ApiKeys | None
    rate_limit: RateLimit | None = None

    def app(self) -> Litestar:
        """The application."""

        @put(
            "/v1/stock/{sku:str}",
            summary="Set the stock",
            **documented("stock:write", _SET_PROBLEMS, request=_REQUEST, response=_STOCK, headers=_ETAG),
        )
        async def set_stock(
            request: JsonRequest,
            sku: _SkuInPath,
            data: JSONBody[StockRequest],
            if_match: _IfMatch = None,
            if_none_match: _IfNoneMatch = None,
        ) -> Response[StockView]:
            """Sets the units on hand and the price; refused when more units are already reserved or sold."""
            update = StockUpdate(
                sku=sku,
                on_hand=data.on_hand,
                unit_price=data.unit_price,
                currency=data.currency,
                trace=trace_of(request.scope),
                condition=_condition(if_match, if_none_match),
            )
            result = await self.database.write(update)
            if not isinstance(result, Stock):
                raise Problem(_REFUSALS[result])
            return _response(result)

        @get(
            "/v1/stock/{sku:str}",
            summary="Get the stock",
            **documented("stock:read", _SHOW_PROBLEMS, response=_STOCK, headers=_ETAG),
        )
        async def get_stock(sku: _SkuInPath) -> Response[StockView]:
            """The stock of one SKU."""
            stock = await self.database.read(lambda transaction: store.read(transaction, sku))
            if stock is None:
                raise Problem(NOT_FOUND, "there is no such SKU")
            return _response(stock)

        return application(
            [set_stock, get_stock],
            keys=self.keys,
            rate_limit=self.rate_limit,
            title="orderflow stock",
            description="Sets and shows the stock.",
        )


def _condition(if_match: str | None, if_none_match: str | None) -> Condition:
    exists = if_match == "*"
    wanted = None if if_match is None or exists else versions(if_match)
    return Condition(versions=wanted, exists=exists, absent=if_none_match is not None)


def _response(stock: Stock) -> Response[StockView]:
    view = StockView(
        stock.sku, stock.on_hand, stock.available, stock.reserved, stock.sold, stock.unit_price, stock.currency
    )
    return Response(view, headers={"ETag": entity_tag(stock.stock_version)})
