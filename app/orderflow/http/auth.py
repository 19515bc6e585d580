# SPDX-License-Identifier: Apache-2.0
"""Who may call, and in which media type; checked before a body is read."""

from collections.abc import Mapping
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from orderflow.http.api_keys import ANYONE, ApiKeys, Client
from orderflow.http.problems import Problem
from orderflow.instrumentation import Instrumentation

_CLIENT = "orderflow.client"


class Guard:
    """Lets a request through when its key has the scope that the route names in ``opt["scope"]``.

    ``keys`` None: keys are switched off, everybody may do everything.
    """

    def __init__(self, keys: ApiKeys | None, instrumentation: Instrumentation) -> None:
        self._keys = keys
        self._instrumentation = instrumentation

    def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Raises Problem: 401 without a known key, 403 without the scope, 415 for a body that is not plain JSON."""
        wanted = handler.opt.get("scope")
        if wanted is None:
            return
        client = self._client(connection, wanted)
        if wanted not in client.scopes:
            self._refused(wanted, "forbidden")
            raise Problem(403, "forbidden", f"this key does not have the scope {wanted}")
        if connection.scope.get("method") in {"POST", "PUT"}:
            _must_be_json(connection.headers)
        connection.scope[_CLIENT] = client  # type: ignore[literal-required]

    def _refused(self, wanted: str, why: str) -> None:
        if wanted == "orders:write":  # everything else is no order
            self._instrumentation.refused(why)

    def _client(self, connection: ASGIConnection[Any, Any, Any, Any], wanted: str) -> Client:
        if self._keys is None:
            return ANYONE
        client = self._keys.client(connection.headers.get("authorization", ""))
        if client is None:
            self._refused(wanted, "unauthorized")
            problem = Problem(401, "unauthorized", "send a known API key as Authorization: Bearer")
            problem.headers["WWW-Authenticate"] = "Bearer"
            raise problem
        return client


def client_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Client:
    """Who sent a request that was let through."""
    client: Client = connection.scope[_CLIENT]  # type: ignore[literal-required]
    return client


def trace_of(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, str]:
    """The trace headers to store beside what a request causes; telemetry has put them there."""
    trace: dict[str, str] = connection.scope.get("orderflow.trace", {})  # type: ignore[assignment]
    return trace


def _must_be_json(headers: Mapping[str, str]) -> None:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "unsupported-media-type", "send application/json")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "unsupported-media-type", "send the body without Content-Encoding")
