# SPDX-License-Identifier: Apache-2.0
"""The documentation page of an API: plain HTML out of the OpenAPI document, readable without the internet."""

import html
from collections.abc import Iterator
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f3f4f6;padding:.75rem;overflow:auto;border-radius:6px}
h2{border-top:1px solid #d8dde3;padding-top:1rem}
b.m{background:#1b4f8a;color:#fff;padding:.1rem .5rem;border-radius:4px}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}
"""


class PlainPage(OpenAPIRenderPlugin):
    """Lists every operation with its parameters, its body and its answers."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page."""
        _ = request
        info = openapi_schema["info"]
        parts = [f"<h1>{_text(info['title'])}</h1><p>{_text(info.get('description', ''))}</p>"]
        parts.append('<p>For programs: <a href="/docs/openapi.json">openapi.json</a></p>')
        for path, item in openapi_schema["paths"].items():
            for method, operation in item.items():
                if isinstance(operation, dict):
                    parts += _operation(path, method, operation)
        parts.append("<h2>Bodies</h2>")
        for name, schema in openapi_schema.get("components", {}).get("schemas", {}).items():
            parts.append(f'<h3 id="{_text(name)}">{_text(name)}</h3><pre>{_json(schema)}</pre>')
        page = f"<!doctype html><meta charset=utf-8><title>{_text(info['title'])}</title><style>{_STYLE}</style>"
        return (page + "".join(parts)).encode()


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h2><b class="m">{method.upper()}</b> <code>{_text(path)}</code></h2>'
    yield f"<p>{_text(operation.get('description') or operation.get('summary', ''))}</p>"
    for parameter in operation.get("parameters", []):
        needed = "required" if parameter.get("required") else "optional"
        about = _text(parameter.get("description", ""))
        yield f"<p><code>{_text(parameter['name'])}</code> in {_text(parameter['in'])}, {needed}. {about}</p>"
    if "requestBody" in operation:
        yield f"<p>Body</p><pre>{_json(operation['requestBody'].get('content', {}))}</pre>"
    rows = "".join(
        f"<tr><td><b>{_text(status)}</b><td>{_text(response.get('description', ''))}"
        for status, response in operation.get("responses", {}).items()
    )
    yield f"<table><tr><th>Status<th>Meaning{rows}</table>"


def _json(value: object) -> str:
    return _text(msgspec.json.format(msgspec.json.encode(value)).decode())


def _text(value: object) -> str:
    return html.escape(str(value))
