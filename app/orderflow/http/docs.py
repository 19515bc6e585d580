# SPDX-License-Identifier: Apache-2.0
"""The documentation page of an API: plain HTML from the OpenAPI document, readable without the internet.

Litestar's renderers load their scripts from other hosts, and the PyPI packages with those scripts (checked 2026-11)
need another framework (flask-swagger-ui, flask-openapi-scalar: 2.5 and 4.9 MB) or have had no release for 20 months or
more (litestar-offline-docs, openapi-ui-bundles, swagger-ui-bundle).
"""

import html
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f3f4f6;padding:.75rem;overflow:auto;border-radius:6px}
h2{border-top:1px solid #d8dde3;padding-top:1rem}
b.method{background:#1b4f8a;color:#fff;padding:.1rem .5rem;border-radius:4px}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}
"""


class DocumentationPage(OpenAPIRenderPlugin):
    """Lists every operation with its scope, parameters, bodies and responses."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        _ = request
        return "".join(_page(openapi_schema)).encode()


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    info = document["info"]
    title = f"{_text(info['title'])} {_text(info['version'])}"
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    yield f"<h1>{title}</h1><p>{_text(info.get('description', ''))}</p>"
    yield '<p>For programs: <a href="/docs/openapi.json">openapi.json</a></p>'
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict):
                yield from _operation(path, method, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<h3 id="{_text(name)}">{_text(name)}</h3><pre>{_json(schema)}</pre>'


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>{_text(operation['summary'])}</h2>"
    yield f'<p><b class="method">{method.upper()}</b> <code>{_text(path)}</code></p>'
    yield f"<p>{_text(operation.get('description', ''))}</p>"
    for requirement in operation.get("security", []):
        for scopes in requirement.values():
            yield f"<p>Needs an API key with the scope <code>{_text(' '.join(scopes))}</code>.</p>"
    for parameter in operation.get("parameters", []):
        needed = "required" if parameter.get("required") else "optional"
        about = _text(parameter.get("description", ""))
        yield f"<p><code>{_text(parameter['name'])}</code> in {_text(parameter['in'])}, {needed}. {about}</p>"
    yield from _example("Request", operation.get("requestBody", {}))
    yield "<table><tr><th>Status<th>Meaning"
    for status, response in operation["responses"].items():
        yield f"<tr><td><b>{_text(status)}</b><td>{_text(response['description'])}"
    yield "</table>"
    for status, response in operation["responses"].items():
        yield from _example(f"Response {status}", response)


def _example(title: str, body: Mapping[str, Any]) -> Iterator[str]:
    for content in body.get("content", {}).values():
        if content.get("example") is not None:
            yield f"<p>{title}, for example</p><pre>{_json(content['example'])}</pre>"


def _json(value: object) -> str:
    return _text(msgspec.json.format(msgspec.json.encode(value)).decode())


def _text(value: object) -> str:
    return html.escape(str(value))
