# SPDX-License-Identifier: Apache-2.0
"""Reads a request's body strictly as what its handler declares: a quantity of "1" is text, not one."""

import functools
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from orderflow.http.problems import Problem

MOST_BODY_BYTES = 64 * 1024


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body is empty, too large, encoded, or does not fit is refused with a problem document."""

    async def body(self) -> bytes:
        """The bytes; raises Problem 400 when a handler needs some and none came, 413 above 64 KiB."""
        try:
            body = await super().body()
        except RequestEntityTooLarge:
            raise Problem(413, "too-large", f"a body has at most {MOST_BODY_BYTES} bytes") from None
        if not body and self.route_handler.parsed_data_field is not None:
            raise Problem(400, "bad-request", "the body is empty: send a JSON object")
        return body

    async def json(self) -> Any:
        """The handler's ``data``; raises Problem 400 for what is no JSON, ValidationException for what does not fit."""
        field = self.route_handler.parsed_data_field
        assert field is not None
        try:
            return _decoder(field.annotation).decode(await self.body())
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            place = path.rstrip("`").removeprefix(".") or "body"
            raise ValidationException(extra=[{"key": place, "message": message}]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(400, "bad-request", f"the body is not JSON in UTF-8: {error}") from None


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)
