# SPDX-License-Identifier: Apache-2.0
"""Every error answer is a problem document (RFC 9457), also those of the framework itself."""

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.types import ExceptionHandlersMap

from orderflow.messaging.errors import BadData

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_CLIENT_IS_GONE = "client disconnected prematurely"
"""Litestar's words for it."""
_TITLES = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid",
    500: "internal-error",
    503: "unavailable",
}


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an error answer. ``type`` is one fixed word of this API."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[dict[str, str]] = []


class Problem(Exception):
    """An error answer; ``kind`` is the fixed word of its type, ``retry_after`` is in seconds."""

    def __init__(self, status: int, kind: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def answer(document: ProblemDocument, headers: dict[str, str] | None = None) -> Response[bytes]:
    """The response that carries a problem document."""
    content = msgspec.json.encode(document)
    return Response(content, status_code=document.status, media_type=MEDIA_TYPE, headers=headers or {})


def _ours(_: Request[Any, Any, Any], error: Problem) -> Response[bytes]:
    title = error.kind.replace("-", " ")
    return answer(
        ProblemDocument(type=error.kind, title=title, status=error.status, detail=error.detail), error.headers
    )


def _invalid(_: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    errors = [
        {"field": str(item.get("key", "")), "message": str(item.get("message", ""))}
        for item in (error.extra or [])
        if isinstance(item, dict)
    ]
    detail = "the request does not fit" if errors else str(error.detail)
    return answer(ProblemDocument(type="invalid", title="invalid", status=422, detail=detail, errors=errors))


def _unanswered(request: Request[Any, Any, Any], error: InternalServerException) -> Response[bytes]:
    """A client that goes away in the middle of its body is no fault of ours; nobody reads the answer."""
    if error.detail != _CLIENT_IS_GONE:
        return _http(request, error)
    return answer(ProblemDocument(type="client-gone", title="client gone", status=499))


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    kind = _TITLES.get(error.status_code, "error")
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() != "content-type"}
    document = ProblemDocument(
        type=kind, title=kind.replace("-", " "), status=error.status_code, detail=str(error.detail)
    )
    return answer(document, headers)


def _refused_by_the_database(request: Request[Any, Any, Any], error: BadData) -> Response[bytes]:
    log.error("http.bad_data", extra={"path": request.url.path, "error": str(error)})
    return answer(ProblemDocument(type="invalid", title="invalid", status=422, detail="a value cannot be stored"))


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("http.failed", exc_info=error, extra={"path": request.url.path})
    return answer(ProblemDocument(type="internal-error", title="internal error", status=500))


HANDLERS: ExceptionHandlersMap = {
    Problem: _ours,
    ValidationException: _invalid,
    InternalServerException: _unanswered,
    HTTPException: _http,
    BadData: _refused_by_the_database,
    Exception: _unexpected,
}
"""For ``Litestar(exception_handlers=…)``."""
