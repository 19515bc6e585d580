# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI documents name every problem, key and example; the documentation page needs no other host."""

import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from orderflow.http.api_database import ApiDatabase
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import ManualClock
from orderflow.services.inventory.api import StockApi
from orderflow.services.orders.admission import Admission
from orderflow.services.orders.api import OrdersApi
from orderflow.version import VERSION

DATABASE: Any = ApiDatabase(None, None)  # type: ignore[arg-type]  # the documents need none
ORDERS = OrdersApi(
    database=DATABASE,
    keys=None,
    instrumentation=Instrumentation(),
    admission=Admission(limit_seconds=10, clock=ManualClock(), instrumentation=Instrumentation()),
).app()
STOCK = StockApi(database=DATABASE, keys=None).app()
READ = {"200", "401", "403", "404", "429", "431", "500", "503"}
WRITE = {"400", "401", "403", "409", "413", "415", "422", "429", "431", "500", "503", "504"}
OPERATIONS = {
    "place_order": ("orders:write", WRITE | {"202"}),
    "get_order": ("orders:read", READ),
    "get_order_history": ("orders:read", READ),
    "set_stock": ("stock:write", WRITE | {"200", "412"}),
    "get_stock": ("stock:read", READ | {"422"}),
}


def get(app: Litestar, path: str) -> Any:
    with TestClient(app) as client:
        response = client.get(path)
        assert response.status_code == 200
        return response


def documents() -> list[dict[str, Any]]:
    return [get(app, "/docs/openapi.json").json() for app in (ORDERS, STOCK)]


def operations() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Every operation by its id, with the document that it is in."""
    return {
        operation["operationId"]: (operation, document)
        for document in documents()
        for item in document["paths"].values()
        for operation in item.values()
    }


def examples(content: dict[str, Any]) -> list[Any]:
    several = [example["value"] for example in content.get("examples", {}).values()]
    return [content["example"], *several] if "example" in content else several


def matches(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    jsonschema.validate(value, {**schema, "components": document["components"]})


def test_every_operation_names_its_scope_and_every_status() -> None:
    found = operations()
    assert found.keys() == OPERATIONS.keys()
    for name, (scope, statuses) in OPERATIONS.items():
        operation, document = found[name]
        assert operation["security"] == [{"apiKey": [scope]}]
        assert operation["responses"].keys() == statuses, name
        assert operation["summary"] and operation["description"]
        assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
        assert document["info"]["version"] == VERSION


def test_every_body_has_examples_that_match_its_schema() -> None:
    for name, (operation, document) in operations().items():
        bodies = {**operation["responses"], "request": operation.get("requestBody")}
        for status, body in bodies.items():
            for content in body["content"].values() if body else ():
                found = examples(content)
                assert found, (name, status)
                for example in found:
                    matches(example, content["schema"], document)


def test_every_error_is_a_problem_document_of_its_status() -> None:
    for name, (operation, _) in operations().items():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                (media_type,) = response["content"]
                assert media_type == "application/problem+json", (name, status)
                for word, example in response["content"][media_type]["examples"].items():
                    assert (example["value"]["type"], example["value"]["status"]) == (word, int(status))


def test_headers_of_responses_are_named() -> None:
    for operation, _ in operations().values():
        responses = operation["responses"]
        assert responses["401"]["headers"]["WWW-Authenticate"]["required"]
        for status in responses.keys() & {"429", "503"}:
            assert "Retry-After" in responses[status]["headers"]
        assert {"RateLimit", "RateLimit-Policy"} <= responses["429"]["headers"].keys()
    for name in ("set_stock", "get_stock"):
        assert operations()[name][0]["responses"]["200"]["headers"]["ETag"]["required"]


def test_what_a_decoder_refuses_its_schema_refuses() -> None:
    operation, document = operations()["place_order"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    order = operation["requestBody"]["content"]["application/json"]["example"]
    line = order["items"][0]
    for wrong in ({**order, "gift": True}, {**order, "items": []}, {**order, "items": [{**line, "gift": True}]}):
        with pytest.raises(jsonschema.ValidationError):
            matches(wrong, schema, document)


class References(HTMLParser):
    """Collects the references and the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.references: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references |= {value or "" for name, value in attrs if name in {"href", "src", "action", "data", "srcset"}}


@pytest.mark.parametrize("app", [ORDERS, STOCK])
def test_the_documentation_page_refers_to_no_other_host(app: Litestar) -> None:
    response = get(app, "/docs")
    assert response.headers["content-type"].startswith("text/html")
    page = References()
    page.feed(response.text)
    assert page.references == {"/docs/openapi.json"}
    assert not page.tags & {"script", "link", "img", "iframe", "object", "base"}
    assert not re.search(r"https?://|@import|url\(", response.text)


def test_the_documentation_page_shows_every_operation_with_its_examples() -> None:
    page = get(ORDERS, "/docs").text
    for text in ("/v1/orders/{order_id}/history", "orders:write", "Idempotency-Key", "sold-out", "customer-1"):
        assert text in page
