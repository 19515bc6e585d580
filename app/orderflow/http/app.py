# SPDX-License-Identifier: Apache-2.0
"""A Litestar application with what every API has: keys, problem documents, a body limit and a documentation page."""

from collections.abc import Awaitable, Callable, Iterator, Sequence

from litestar import Litestar, Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.types import Scope

from orderflow.http.api_keys import ApiKeys
from orderflow.http.auth import ApiKeyAuthentication
from orderflow.http.body import JsonRequest
from orderflow.http.openapi import openapi_config
from orderflow.http.problems import BODY_LIMIT_BYTES, log_failure, problem_details
from orderflow.http.rate_limit import RateLimit
from orderflow.http.struct_schemas import StructSchemas

_DOCUMENTATION = "/docs"


def application(
    handlers: Sequence[HTTPRouteHandler],
    *,
    keys: ApiKeys | None,
    title: str,
    description: str,
    rate_limit: RateLimit | None = None,
    after_exception: Sequence[Callable[[Exception, Scope], Awaitable[None]]] = (),
) -> Litestar:
    """The application. With ``keys`` None every request is allowed. The body limit also applies to chunked bodies."""
    return Litestar(
        route_handlers=[*_options(handlers), *handlers],
        middleware=[
            DefineMiddleware(ApiKeyAuthentication, keys=keys, rate_limit=rate_limit, exclude=f"^{_DOCUMENTATION}")
        ],
        plugins=[problem_details(), StructSchemas()],
        after_exception=[log_failure, *after_exception],
        request_class=JsonRequest,
        request_max_body_size=BODY_LIMIT_BYTES,
        logging_config=None,
        openapi_config=openapi_config(title, description, path=_DOCUMENTATION),
    )


def _options(handlers: Sequence[HTTPRouteHandler]) -> Iterator[HTTPRouteHandler]:
    """An OPTIONS handler for each path; Litestar's own lists only the methods of the first handler of a path."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    for path, allowed in methods.items():
        yield _allow(path, ", ".join(sorted(allowed)))


def _allow(path: str, allowed: str) -> HTTPRouteHandler:
    @route(path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False, sync_to_thread=False)
    def allow() -> Response[None]:
        return Response(None, headers={"Allow": allowed})

    return allow
