# SPDX-License-Identifier: Apache-2.0
"""Commands, settings, processes and exit codes are documented, and links and file names in documents exist."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from opentelemetry.sdk import environment_variables

from orderflow.__main__ import COMMANDS
from orderflow.bootstrap.serve import MEANINGS, find_process
from orderflow.broker_topology import mistakes
from orderflow.operations.reconciler.integrity import Integrity, Stock
from orderflow.reference import outdated
from orderflow.reference.settings import VARIABLES
from orderflow.services import SERVICES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
README = (ROOT / "README.md").read_text()
OPERATE = (ROOT / "docs/operate.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
GLOSSARY = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)[1:]
WRITTEN = [path for path in DOCUMENTS if "reference" not in path.parts]


def test_the_generated_reference_is_current() -> None:
    assert outdated(ROOT / "docs/reference") == []


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "reference"])
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"orderflow {command}[` ]", README)


def test_every_promise_that_is_checked_is_in_the_readme() -> None:
    nothing = Integrity(orders={}, stock=Stock(), captured=0, captured_amount=0, confirmed_amount=0)
    assert [check.promise for check in nothing.checks() if f"\n{check.promise}  " not in README] == []


def test_every_process_is_in_the_readme_and_in_its_services_declaration() -> None:
    assert [process for process in MEANINGS if process not in README] == []
    for process in MEANINGS:
        service, _ = find_process(process)
        module = import_module(f"orderflow.services.{service.name}.process")
        assert set(module.PROCESSES) == set(service.processes)


def test_every_event_is_published_by_a_service_and_handled_by_a_service() -> None:
    assert mistakes(SERVICES) == []


def test_the_standard_variables_that_are_read_are_those_that_are_documented() -> None:
    sources = (path for path in (ROOT / "app/orderflow/telemetry").rglob("*.py"))
    read = {name for path in sources for name in re.findall(r"\b(OTEL_[A-Z_]+)\b", path.read_text())}
    assert read <= set(VARIABLES)
    assert set(VARIABLES) <= {
        *vars(environment_variables),
        "OTEL_TRACES_EXPORTER",
    }  # the last one belongs to the SDK's launcher


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "70"])
def test_every_exit_code_is_explained(code: str) -> None:
    assert f"| {code} |" in OPERATE


def test_every_make_target_says_what_it_does() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE)
    assert sorted(phony.split()) == sorted(helped)
    assert len(MAKEFILE.splitlines()) <= 80


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_have_a_target(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", sorted(ROOT.glob("docs/decisions/*.md")), ids=lambda path: path.name)
def test_a_decision_record_fits_a_page_and_has_its_parts(document: Path) -> None:
    text = document.read_text()
    assert len(text.splitlines()) <= 50
    for part in ("**Status:**", "**Context.**", "**Decision.**", "**Why.**", "**What it costs.**"):
        assert part in text


@pytest.mark.parametrize(("term", "where"), GLOSSARY, ids=[term for term, _ in GLOSSARY])
def test_a_term_of_the_glossary_is_where_it_says(term: str, where: str) -> None:
    found = re.fullmatch(r"`(?P<path>[\w/]+\.py)`(: `(?P<name>\w+)`)?", where)
    assert found is not None, f"{term}: {where}"
    tree = ast.parse((ROOT / "app/orderflow" / found["path"]).read_text())
    assert found["name"] is None or found["name"] in set(top_level_names(tree))


def top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    """A path in code quotes is relative to the root, the package or the document; it contains a slash."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = re.findall(r"`(\w[\w.-]*/[\w./-]*(?:\.(?:py|sql|md|json|yaml)|\w/))`", text)
    places = (ROOT, ROOT / "app/orderflow", document.parent)
    unknown = [name for name in names if not any((place / name).exists() for place in places)]
    assert [name for name in unknown if "loyalty" not in name] == []
