# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import adapters
from psycopg.adapt import Transformer
from psycopg.pq import Format

from orderflow.messaging.errors import BadData
from orderflow.messaging.postgres.arrays import packer

simple = st.one_of(
    st.lists(st.uuids(), min_size=1),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    st.lists(st.binary(), min_size=1),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
)


@given(simple)
def test_the_driver_reads_what_was_packed(values: Sequence[object]) -> None:
    found = packer(values)
    assert found is not None
    element, oid, pack = found
    assert element is type(values[0])
    assert Transformer(adapters).get_loader(oid, Format.BINARY).load(pack(values)) == values


@pytest.mark.parametrize("values", [[], [None], ["a", None], ["a", 1], [True], [1.5], [datetime.now(UTC)], [["a"]]])
def test_a_list_that_is_not_simple_is_left_to_the_driver(values: list[object]) -> None:
    assert packer(values) is None


def test_an_integer_of_more_than_64_bits_is_bad_data() -> None:
    found = packer([1, 2**63])
    assert found is not None
    with pytest.raises(BadData):
        found[2]([1, 2**63])


def test_ids_are_packed_in_order() -> None:
    ids = [UUID(int=2), UUID(int=1)]
    found = packer(ids)
    assert found is not None
    assert found[2](ids).index(ids[0].bytes) < found[2](ids).index(ids[1].bytes)
