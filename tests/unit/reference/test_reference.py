# SPDX-License-Identifier: Apache-2.0
"""Generated documents: valid by the official schemas, and detected when they are not current."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orderflow import reference
from orderflow.events import EVENTS
from orderflow.messaging.event import encode, event_type
from orderflow.reference import documents, outdated, write
from orderflow.settings import Settings, variable
from tests.builders import an_event

DOCUMENTS = documents()
ASYNCAPI = json.loads(DOCUMENTS["asyncapi.json"])
OFFICIAL = json.loads((Path(__file__).parents[2] / "data" / "asyncapi-3.0.0.json").read_text())


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_asyncapi_document_is_valid_by_the_official_schema() -> None:
    jsonschema.Draft7Validator.check_schema(OFFICIAL)
    assert [error.message for error in jsonschema.Draft7Validator(OFFICIAL).iter_errors(ASYNCAPI)] == []


def test_the_official_schema_rejects_a_mistake() -> None:
    wrong = json.loads(DOCUMENTS["asyncapi.json"])
    next(iter(wrong["operations"].values()))["action"] = "shout"
    assert not jsonschema.Draft7Validator(OFFICIAL).is_valid(wrong)


def test_every_reference_of_the_asyncapi_document_has_a_target() -> None:
    for found in set(references(ASYNCAPI)):
        place = ASYNCAPI
        for part in found.removeprefix("#/").split("/"):
            assert part in place, found
            place = place[part]


@pytest.mark.parametrize("event", EVENTS, ids=event_type)
def test_the_schema_of_an_event_accepts_what_we_send_and_refuses_what_we_never_send(event: Any) -> None:
    schema = json.loads(DOCUMENTS[f"schemas/{event_type(event)}.json"])
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    body = json.loads(encode(an_event(event)))
    assert list(validator.iter_errors(body)) == []
    assert not validator.is_valid({**body, "version": 2})
    assert not validator.is_valid({name: value for name, value in body.items() if name != "timestamp"})


def test_every_event_and_every_setting_is_in_its_page() -> None:
    assert all(f"## {event_type(event)}\n" in DOCUMENTS["messages.md"] for event in EVENTS)
    assert all(f"`{variable(name)}`" in DOCUMENTS["settings.md"] for name in Settings.__slots__)


def test_tables_have_the_same_number_of_cells_in_every_row() -> None:
    for path, text in DOCUMENTS.items():
        if path.endswith(".md"):
            for block in text.split("\n\n"):
                rows = [line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")]
                assert len(set(rows)) <= 1, f"{path}: {block.splitlines()[0]}"


def test_generated_files_are_current_until_one_is_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    reference.arguments(parser)
    check = parser.parse_args(["--check", str(tmp_path)])
    assert len(outdated(tmp_path)) == len(DOCUMENTS)
    assert reference.main(parser.parse_args(["--write", str(tmp_path)]), {}) == 0
    assert reference.main(check, {}) == 0
    (tmp_path / "messages.md").write_text("edited")
    (tmp_path / "schemas" / "OLD.json").write_text("{}")
    (tmp_path / "topology.md").unlink()
    assert reference.main(check, {}) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("messages.md", "OLD.json", "topology.md"))
    write(tmp_path)
    assert outdated(tmp_path) == []
