# SPDX-License-Identifier: Apache-2.0
"""Decodes a request's body strictly as what its handler declares: a quantity of "1" is text, not a number."""

import functools
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import ValidationException

from orderflow.http.api_keys import Client
from orderflow.http.problems import BAD_REQUEST, Problem


class JsonRequest(Request[Client, Any, Any]):
    """A request with a JSON body."""

    async def body(self) -> bytes:
        """The bytes; raises Problem 400 when the handler needs a body and none was sent."""
        body = await super().body()
        if not body and self.route_handler.parsed_data_field is not None:
            raise Problem(BAD_REQUEST, "the body is empty: send a JSON object")
        return body

    async def json(self) -> Any:
        """The handler's ``data``; raises Problem 400 for invalid JSON, ValidationException for a type that differs."""
        field = self.route_handler.parsed_data_field
        assert field is not None
        body = await self.body()
        try:
            return _decoded(body, field.annotation)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            place = path.rstrip("`").removeprefix(".") or "body"
            raise ValidationException(extra=[{"key": place, "message": message}]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(BAD_REQUEST, f"the body is not JSON in UTF-8: {error}") from None
        except RecursionError:
            raise Problem(BAD_REQUEST, "the body is nested too deeply") from None


def _decoded(body: bytes, annotation: Any) -> Any:
    """The body as the annotated type. A number without a fraction is an integer, as in JSON Schema."""
    try:
        return _decoder(annotation).decode(body)
    except msgspec.ValidationError as error:
        if not str(error).startswith("Expected `int`, got `float`"):
            raise
    return msgspec.convert(_UNTYPED.decode(body), annotation)


@functools.cache
def _decoder(annotation: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(annotation)


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


_UNTYPED = msgspec.json.Decoder(float_hook=_number)
