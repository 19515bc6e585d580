# SPDX-License-Identifier: Apache-2.0
"""Who may call an operation, and in which media type; checked before the body is read.

A handler names the scope that it needs in ``opt["scope"]``. A handler without a scope is open to every authenticated
client. The guards are coroutines, because Litestar runs other functions in a thread, which doubles the CPU time of a
small request.
"""

from collections.abc import Mapping
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp

from orderflow.http.api_keys import ANYONE, ApiKeys
from orderflow.http.problems import FORBIDDEN, UNAUTHORIZED, UNSUPPORTED_MEDIA_TYPE, Problem
from orderflow.http.rate_limit import RateLimit

Connection = ASGIConnection[Any, Any, Any, Any]


class ApiKeyAuthentication(AbstractAuthenticationMiddleware):
    """Sets ``connection.user`` to the ``Client`` that holds the key; with ``keys`` None every request is authenticated.

    Raises Problem 401 without a known key, and Problem 429 when the client has sent too many requests.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys | None, rate_limit: RateLimit | None, exclude: str) -> None:
        super().__init__(app, exclude=exclude)
        self._keys = keys
        self._rate_limit = rate_limit

    async def authenticate_request(self, connection: Connection) -> AuthenticationResult:
        """The client of this request; raises Problem 401 without a known key, 429 above the client's limit."""
        client = ANYONE if self._keys is None else self._keys.client(connection.headers.get("authorization", ""))
        if client is None:
            raise Problem(UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
        if self._rate_limit is not None:
            self._rate_limit.take(client.name, connection.scope)  # type: ignore[arg-type]  # a TypedDict
        return AuthenticationResult(user=client, auth=None)


async def require_scope(connection: Connection, handler: BaseRouteHandler) -> None:
    """A guard; raises Problem 403 when the client's key lacks the handler's scope."""
    scope = handler.opt.get("scope")
    if scope is not None and scope not in connection.user.scopes:
        raise Problem(FORBIDDEN, f"this key does not have the scope {scope}")


async def require_json(connection: Connection, _handler: BaseRouteHandler) -> None:
    """A guard; raises Problem 415 for a POST or PUT that does not announce a plain JSON body."""
    if connection.scope.get("method") not in {"POST", "PUT"}:
        return
    headers: Mapping[str, str] = connection.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "send application/json")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding")
