# SPDX-License-Identifier: Apache-2.0
"""Adds to the OpenAPI document what the handlers' types do not express: problems, headers, keys and examples."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import msgspec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    Link,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
)

from orderflow.http.docs import DocumentationPage
from orderflow.http.problems import (
    BAD_REQUEST,
    DATABASE_UNAVAILABLE,
    FORBIDDEN,
    HEAD_TOO_LARGE,
    INTERNAL_ERROR,
    INVALID,
    MEDIA_TYPE,
    NOT_FOUND,
    OUTCOME_UNKNOWN,
    OVERLOADED,
    QUOTA_EXCEEDED,
    TOO_LARGE,
    UNAUTHORIZED,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemDocument,
    ProblemType,
)
from orderflow.version import VERSION

READ_PROBLEMS = (NOT_FOUND, DATABASE_UNAVAILABLE)
WRITE_PROBLEMS = (
    BAD_REQUEST,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID,
    OVERLOADED,
    DATABASE_UNAVAILABLE,
    OUTCOME_UNKNOWN,
)
_ALL_PROBLEMS = (UNAUTHORIZED, FORBIDDEN, QUOTA_EXCEEDED, HEAD_TOO_LARGE, INTERNAL_ERROR)
_KEY = "apiKey"
_CHALLENGE = OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING, const="Bearer"), required=True)
_RETRY_AFTER = OpenAPIHeader(
    schema=Schema(type=OpenAPIType.INTEGER, minimum=1), description="Seconds to wait before sending the request again."
)
_RATE_LIMIT = {
    name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=f"{meaning} Also in other responses.")
    for name, meaning in (
        ("RateLimit-Policy", "The limit of this client: q requests in w seconds."),
        ("RateLimit", "What is left of it: r requests; in t seconds it is whole, or the next request is allowed."),
    )
}


def openapi_config(title: str, description: str, *, path: str) -> OpenAPIConfig:
    """Serves the documentation page at ``path`` and the document itself at ``path``/openapi.json."""
    key = SecurityScheme(type="http", scheme="bearer", description="An API key with the scope of the operation.")
    return OpenAPIConfig(
        title=title,
        version=VERSION,
        description=description,
        path=path,
        use_handler_docstrings=True,
        operation_id_creator=lambda handler, _method, _path: handler.handler_name,
        components=Components(security_schemes={_KEY: key}),
        render_plugins=[DocumentationPage(), JsonRenderPlugin()],
    )


def documented(
    scope: str,
    problems: Collection[ProblemType],
    *,
    request: object = None,
    response: object = None,
    links: Mapping[str, str] | None = None,
    headers: Mapping[str, OpenAPIHeader] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of a handler: the scope that it needs, and its part of the OpenAPI document.

    ``problems`` are those in addition to the problems of every operation. ``request`` and ``response`` are example
    bodies. ``links`` maps an operation to the field of the response that it takes as a parameter of the same name.
    ``headers`` are those of the response.
    """
    kinds = sorted((*problems, *_ALL_PROBLEMS), key=attrgetter("status"))
    by_status = {status: list(group) for status, group in groupby(kinds, attrgetter("status"))}
    return {
        "opt": {"scope": scope},
        "security": [{_KEY: [scope]}],
        "responses": {status: _response(kinds) for status, kinds in by_status.items()},
        "operation_class": partial(
            DocumentedOperation,
            problems=by_status,
            request_example=_raw(request),
            response_example=_raw(response),
            links=links or {},
            headers=headers or {},
        ),
    }


@dataclass
class DocumentedOperation(Operation):
    """An operation with what Litestar's ``ResponseSpec`` cannot express: headers, links and examples of its bodies.

    Every error response is a problem document; those that Litestar adds in another format are removed.
    """

    problems: InitVar[Mapping[int, Sequence[ProblemType]]] = MappingProxyType({})
    request_example: InitVar[object] = None
    response_example: InitVar[object] = None
    links: InitVar[Mapping[str, str]] = MappingProxyType({})
    headers: InitVar[Mapping[str, OpenAPIHeader]] = MappingProxyType({})

    def __post_init__(
        self,
        problems: Mapping[int, Sequence[ProblemType]],
        request_example: object,
        response_example: object,
        links: Mapping[str, str],
        headers: Mapping[str, OpenAPIHeader],
    ) -> None:
        """Complete what Litestar has generated."""
        if isinstance(self.request_body, RequestBody):
            _set_example(self.request_body.content, request_example)
        responses, self.responses = self.responses or {}, {}
        for status, response in responses.items():
            kinds = problems.get(int(status), ())
            if isinstance(response, OpenAPIResponse) and (kinds or int(status) < 300):
                self.responses[status] = response
                if kinds:
                    _complete(response, kinds)
                else:
                    _set_example(response.content, response_example)
                    response.headers = {**(response.headers or {}), **headers}
                    response.links = {operation: _link(operation, field) for operation, field in links.items()}


def _link(operation: str, field: str) -> Link:
    return Link(operation_id=operation, parameters={field: f"$response.body#/{field}"})


def _raw(example: object) -> msgspec.Raw | None:
    """The example, encoded; otherwise Litestar leaves out fields that are null."""
    return None if example is None else msgspec.Raw(msgspec.json.encode(example))


def _set_example(content: Mapping[str, OpenAPIMediaType] | None, example: object) -> None:
    for media_type in (content or {}).values():
        media_type.example = example


def _response(kinds: Sequence[ProblemType]) -> ResponseSpec:
    """The response of one status: a problem of one of these types."""
    description = " ".join(f"{kind.word}: {kind.meaning}" for kind in kinds)
    return ResponseSpec(ProblemDocument, generate_examples=False, description=description, media_type=MEDIA_TYPE)


def _complete(response: OpenAPIResponse, kinds: Sequence[ProblemType]) -> None:
    """Add an example of each problem, and its headers."""
    assert response.content is not None
    response.content[MEDIA_TYPE].examples = {kind.word: Example(value=_raw(kind.document())) for kind in kinds}
    if UNAUTHORIZED in kinds:
        response.headers = {"WWW-Authenticate": _CHALLENGE}
    elif any(kind.retry_after for kind in kinds):
        response.headers = {"Retry-After": _RETRY_AFTER, **(_RATE_LIMIT if QUOTA_EXCEEDED in kinds else {})}
