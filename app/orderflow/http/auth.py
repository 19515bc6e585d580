# SPDX-License-Identifier: Apache-2.0
"""Who may call an operation, and in which media type; checked before the body is read.

A handler names the scope that it needs in ``opt["scope"]``. A handler without a scope is open to every authenticated
client. These are not guards of the framework, because it copies the handler for each guard of each request.
"""

from collections.abc import Mapping
from typing import Any

from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp

from orderflow.http.api_keys import ANYONE, ApiKeys, Client
from orderflow.http.problems import FORBIDDEN, UNAUTHORIZED, UNSUPPORTED_MEDIA_TYPE, Problem
from orderflow.http.rate_limit import RateLimit

Connection = ASGIConnection[Any, Any, Any, Any]


class ApiKeyAuthentication(AbstractAuthenticationMiddleware):
    """Sets ``connection.user`` to the ``Client`` that holds the key; with ``keys`` None every request is authenticated.

    Raises Problem 401 without a known key, 429 when the client has sent too many requests, 403 without the handler's
    scope, and 415 for a body that is not JSON.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys | None, rate_limit: RateLimit | None, exclude: str) -> None:
        super().__init__(app, exclude=exclude)
        self._keys = keys
        self._rate_limit = rate_limit

    async def authenticate_request(self, connection: Connection) -> AuthenticationResult:
        """The client of this request; see the class for what it raises."""
        client = ANYONE if self._keys is None else self._keys.client(connection.headers.get("authorization", ""))
        if client is None:
            raise Problem(UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
        if self._rate_limit is not None:
            self._rate_limit.take(client.name, connection.scope)  # type: ignore[arg-type]  # a TypedDict
        require_scope(client, connection.scope["route_handler"].opt.get("scope"))
        require_json(connection)
        return AuthenticationResult(user=client, auth=None)


def require_scope(client: Client, scope: str | None) -> None:
    """Raises Problem 403 when the client's key lacks the scope."""
    if scope is not None and scope not in client.scopes:
        raise Problem(FORBIDDEN, f"this key does not have the scope {scope}")


def require_json(connection: Connection) -> None:
    """Raises Problem 415 for a POST or PUT that does not announce a plain JSON body."""
    if connection.scope.get("method") not in {"POST", "PUT"}:
        return
    headers: Mapping[str, str] = connection.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "send application/json")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding")
