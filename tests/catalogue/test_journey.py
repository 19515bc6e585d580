# SPDX-License-Identifier: Apache-2.0
"""docs/journey.md names functions that exist, in few files; tests/integration sends a real order through them."""

import ast
import re

import pytest

from tests.rigs.journey_page import PACKAGE, PAGE, linked_functions, named_files

MOST_FILES = 35


def defined(path: str) -> set[str]:
    """The qualified names of every function and method of a file."""
    tree = ast.parse((PACKAGE / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {f"{owner.name}.{node.name}" for owner in classes for node in owner.body if isinstance(node, functions)}
    return methods | {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize(("function", "path"), linked_functions())
def test_a_linked_function_exists(function: str, path: str) -> None:
    assert function in defined(path)


def test_the_linked_functions_are_in_few_files_and_none_is_named_twice() -> None:
    files, parts = {path for _, path in linked_functions()}, named_files("Other files that run")
    assert len(files) <= MOST_FILES
    assert files.isdisjoint(parts)
    assert f"The linked functions are in {len(files)} files. Another {len(parts)} run too" in PAGE


def test_every_file_and_folder_that_the_page_names_exists() -> None:
    names = re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)
    assert names and [name for name in names if not (PACKAGE / name).exists()] == []


@pytest.mark.parametrize(
    ("subject", "identifiers", "most"),
    [
        ("orderflow_orders_final_total", r"\b(ORDERS_FINAL|order_final|OUTCOME = Label)\b", 5),
        ("ORDERFLOW_LOW_STOCK_UNITS", r"\b(low_stock_units|low_units)\b", 4),
    ],
)
def test_one_metric_and_one_setting_are_in_the_few_files_that_the_page_names(
    subject: str, identifiers: str, most: int
) -> None:
    (paragraph,) = (part for part in PAGE.split("\n\n") if part.rpartition("\n## ")[2].find(f"`{subject}`") >= 0)
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(identifiers, path.read_text())
    }
    assert found == set(re.findall(r"`([\w/]+\.py)`", paragraph))
    assert len(found) <= most
