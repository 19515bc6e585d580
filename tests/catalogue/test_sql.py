# SPDX-License-Identifier: Apache-2.0
"""Rules for the SQL of the application, checked in its string constants."""

import ast
import re
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
# A subquery in parentheses; its text has parentheses of one more level at most.
_SUBQUERY = re.compile(r"(?P<before>[\w%)]+|^)\s*\((?P<text>\s*select\b(?:[^()]|\([^()]*\))*)\)", re.IGNORECASE)
_TAKES_ROWS = re.compile(r"\bfor\s+(no key )?update\b|\bskip\s+locked\b", re.IGNORECASE)


def violations(statement: str) -> list[str]:
    """The subqueries that lock rows and are not materialized: with a limit they may lock more than it says."""
    return [
        found["text"].strip()
        for found in _SUBQUERY.finditer(statement)
        if _TAKES_ROWS.search(found["text"]) and found["before"].lower() != "materialized"
    ]


def constants() -> list[tuple[str, str]]:
    """Every string constant of the application that contains a select, with its file."""
    return [
        (path.relative_to(APP).as_posix(), node.value)
        for path in sorted(APP.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "select" in node.value.lower()
    ]


def test_rows_are_locked_in_materialized_subqueries_only() -> None:
    """https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-CTE-MATERIALIZATION"""
    statements = constants()
    assert sum("skip locked" in text for _, text in statements) >= 5
    assert {file: found for file, text in statements if (found := violations(text))} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "update t set x = 1 where id in (select id from t limit %(limit)s for update skip locked)",
        "update t set x = 1 where id = any(array(select id from t where f(x) limit 1 for update))",
        "with due as (select id from t limit 1 for update skip locked) update t set x = 1 from due",
        "with due as not materialized_yet (select id from t for update) delete from t using due",
    ],
)
def test_the_rule_finds_a_statement_that_breaks_it(statement: str) -> None:
    assert violations(statement)


def test_the_rule_allows_a_materialized_subquery_and_one_that_locks_nothing() -> None:
    assert not violations("with due as materialized (select id from t limit 1 for update) update t set x = 1 from due")
    assert not violations("delete from t where id = any(array(select id from t limit 10))")
    assert not violations("select id from t limit 1 for update skip locked")
