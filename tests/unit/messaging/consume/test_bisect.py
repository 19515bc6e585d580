# SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.messaging.consume.bisect import bisect
from orderflow.messaging.errors import BadData, DatabaseUnavailable


class Table:
    """A table that applies all items of an attempt or none, and refuses some items."""

    def __init__(self, failing: frozenset[int]) -> None:
        self.failing = failing
        self.done: list[int] = []
        self.refused: list[int] = []
        self.attempts = 0

    def attempt(self, items: Sequence[int]) -> None:
        self.attempts += 1
        if self.failing.intersection(items):
            raise BadData("refused")
        self.done += items

    def on_failure(self, item: int, error: Exception) -> None:
        assert isinstance(error, BadData)
        self.refused.append(item)


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.frozensets(st.integers(0, max(0, n - 1))))))
def test_every_good_item_is_done_once_and_in_order_whatever_fails(case: tuple[int, frozenset[int]]) -> None:
    n, failing = case
    table = Table(failing)
    bisect(range(n), table.attempt, table.on_failure)
    assert table.done == [item for item in range(n) if item not in failing]
    assert table.refused == [item for item in range(n) if item in failing]
    most = 1 + len(failing) * 2 * math.ceil(math.log2(n)) if n > 1 else 1
    assert table.attempts <= most


def test_one_failing_item_among_many_costs_few_attempts() -> None:
    table = Table(frozenset({77}))
    bisect(range(250), table.attempt, table.on_failure)
    assert table.attempts <= 17


def test_nothing_is_attempted_without_items() -> None:
    table = Table(frozenset())
    bisect([], table.attempt, table.on_failure)
    assert table.attempts == 0


def test_an_infrastructure_error_fails_no_item() -> None:
    table = Table(frozenset({1}))

    def attempt(items: Sequence[int]) -> None:
        if 2 in items and len(items) == 2:
            raise DatabaseUnavailable("gone")
        table.attempt(items)

    with pytest.raises(DatabaseUnavailable):
        bisect(range(4), attempt, table.on_failure)
    assert (table.done, table.refused) == ([0], [1])
