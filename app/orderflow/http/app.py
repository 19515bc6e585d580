# SPDX-License-Identifier: Apache-2.0
"""A Litestar application with the house rules: keys, problems, limits, and a page of documentation at /docs."""

from collections.abc import Sequence

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from orderflow.http.api_keys import ApiKeys
from orderflow.http.auth import Guard
from orderflow.http.body import MOST_BODY_BYTES, JsonRequest
from orderflow.http.docs import PlainPage
from orderflow.http.problems import HANDLERS
from orderflow.instrumentation import Instrumentation
from orderflow.version import version


def application(
    handlers: Sequence[HTTPRouteHandler],
    *,
    keys: ApiKeys | None,
    instrumentation: Instrumentation,
    title: str,
    description: str,
) -> Litestar:
    """The application; ``keys`` None switches keys off. Bodies above 64 KiB are refused with 413, chunked ones too."""
    return Litestar(
        route_handlers=list(handlers),
        guards=[Guard(keys, instrumentation)],
        exception_handlers=HANDLERS,
        request_class=JsonRequest,
        request_max_body_size=MOST_BODY_BYTES,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title=title,
            version=version(),
            description=description,
            path="/docs",
            render_plugins=[PlainPage(), JsonRenderPlugin()],
        ),
    )
