# SPDX-License-Identifier: Apache-2.0
"""Every error response is a problem document (RFC 9457), including the framework's own errors."""

import logging
from dataclasses import dataclass

import msgspec
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.plugins.problem_details import ProblemDetailsConfig, ProblemDetailsException, ProblemDetailsPlugin
from litestar.types import Scope

from orderflow.messaging.errors import BadData

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
BODY_LIMIT_BYTES = 64 * 1024
_DISCONNECTED = "client disconnected prematurely"
"""The detail of the exception that Litestar raises when the client disconnects."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field."""

    field: str
    message: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an error response. ``type`` is one fixed word of this API."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem. ``word`` is its public ``type``; ``retry_after`` is in seconds."""

    word: str
    status: int
    meaning: str
    retry_after: int | None = None

    @property
    def title(self) -> str:
        """The word, as text."""
        return self.word.replace("-", " ")

    @property
    def reason(self) -> str:
        """The word in the form of a metric label's value."""
        return self.word.replace("-", "_")

    def document(self) -> ProblemDocument:
        """An example of the document."""
        return ProblemDocument(type=self.word, title=self.title, status=self.status, detail=self.meaning)


BAD_REQUEST = ProblemType("bad-request", 400, "The body is empty or is not JSON in UTF-8.")
UNAUTHORIZED = ProblemType("unauthorized", 401, "Send a known API key as Authorization: Bearer.")
FORBIDDEN = ProblemType("forbidden", 403, "The API key lacks the scope of this operation.")
NOT_FOUND = ProblemType("not-found", 404, "There is no such resource.")
METHOD_NOT_ALLOWED = ProblemType("method-not-allowed", 405, "The Allow header lists the methods of this resource.")
TOO_LARGE = ProblemType("too-large", 413, f"A body has at most {BODY_LIMIT_BYTES} bytes.")
UNSUPPORTED_MEDIA_TYPE = ProblemType("unsupported-media-type", 415, "Send application/json without Content-Encoding.")
INVALID = ProblemType("invalid", 422, "The request does not match its schema; errors lists the fields.")
HEAD_TOO_LARGE = ProblemType("head-too-large", 431, "The request line and the headers are too long.")
QUOTA_EXCEEDED = ProblemType("quota-exceeded", 429, "This client sends more requests than its limit.", retry_after=1)
OVERLOADED = ProblemType("overloaded", 429, "Too many requests wait, or they wait for too long.", retry_after=1)
CLIENT_GONE = ProblemType("client-gone", 499, "The client closed the connection before it had sent its request.")
INTERNAL_ERROR = ProblemType("internal-error", 500, "The server failed. Its log has the cause.")
DATABASE_UNAVAILABLE = ProblemType(
    "database-unavailable", 503, "The database did not respond in time. Send the request again.", retry_after=1
)
OUTCOME_UNKNOWN = ProblemType(
    "outcome-unknown",
    504,
    "The database did not respond in time: the request may or may not have been carried out. Send it again unchanged.",
    retry_after=1,
)
_BY_STATUS = {
    kind.status: kind
    for kind in (BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, METHOD_NOT_ALLOWED, TOO_LARGE, INTERNAL_ERROR)
}


class Problem(ProblemDetailsException):
    """An error response; ``detail`` replaces the meaning of its type."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str = "",
        *,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        retry = {} if kind.retry_after is None else {"Retry-After": str(kind.retry_after)}
        super().__init__(
            detail=detail or kind.meaning,
            status_code=kind.status,
            type_=kind.word,
            title=kind.title,
            extra={"errors": errors} if errors else None,
            headers={**retry, **(headers or {})},
        )
        self.kind = kind


def problem_of(error: Exception) -> Problem:
    """The problem that a client gets for an exception."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationException):
        return _invalid(error)
    if isinstance(error, BadData):
        return Problem(INVALID, "a value cannot be stored")
    if isinstance(error, InternalServerException) and error.detail == _DISCONNECTED:
        return Problem(CLIENT_GONE)
    if isinstance(error, HTTPException) and error.status_code in _BY_STATUS:
        detail = error.detail if error.status_code == BAD_REQUEST.status else ""
        return Problem(_BY_STATUS[error.status_code], detail, headers=error.headers)
    return Problem(INTERNAL_ERROR)


async def log_failure(error: Exception, scope: Scope) -> None:
    """Log a failure of the server; for ``Litestar(after_exception=…)``."""
    if isinstance(error, BadData):
        log.error("http.bad_data", extra={"path": scope["path"], "error": str(error)})
    elif problem_of(error).kind is INTERNAL_ERROR:
        log.error("http.failed", exc_info=error, extra={"path": scope["path"]})


def problem_details() -> ProblemDetailsPlugin:
    """The plugin that sends problem documents."""
    return ProblemDetailsPlugin(
        ProblemDetailsConfig(exception_to_problem_detail_map={HTTPException: problem_of, Exception: problem_of})
    )


def _invalid(error: ValidationException) -> Problem:
    errors = [
        {"field": str(item.get("key", "")), "message": str(item.get("message", ""))}
        for item in (error.extra or [])
        if isinstance(item, dict)
    ]
    return Problem(INVALID, "the request does not match its schema" if errors else str(error.detail), errors=errors)
