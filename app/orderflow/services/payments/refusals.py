# SPDX-License-Identifier: Apache-2.0
"""Which error statuses of a provider are final, and which are only an answer to this attempt.

==================== ================================================================================================
Status               Consequence
==================== ================================================================================================
400 402 410 413 422  final: the provider will never execute this call
404                  final when the provider says so in an ``error``: a wrong URL and a proxy answer 404, too
409                  a call with the same key may still be running: a charge is looked up, a refund is tried some more
401 403 407          our access is refused, not this payment: calls are suspended (``messaging/circuit_breaker``)
others, also 408 429 tried again, with back-off
==================== ================================================================================================
"""

import re
from http import HTTPStatus

import msgspec

from orderflow.services.payments.provider import ACCESS_DENIED, Failed, Refused

_FINAL = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.PAYMENT_REQUIRED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.GONE,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_DENIED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED})
_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


class _Error(msgspec.Struct, frozen=True):
    error: str


_decode = msgspec.json.Decoder(_Error).decode


def refusal(status: int, body: bytes) -> Refused | Failed:
    """What an error status means for this call. A refusal is named by the provider's ``error``, else by its status."""
    if status in _DENIED:
        return Failed(ACCESS_DENIED)
    error = _error(body)
    if status not in _FINAL or (status == HTTPStatus.NOT_FOUND and error is None):
        return Failed(f"status_{status}")
    return Refused(error or f"status_{status}", certain=status != HTTPStatus.CONFLICT)


def _error(body: bytes) -> str | None:
    """The provider's word for the error; None when the body has no such word."""
    try:
        word = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return word if _WORD.fullmatch(word) else None
