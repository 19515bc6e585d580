# SPDX-License-Identifier: Apache-2.0
import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from pika import data

from orderflow.messaging.rabbitmq.field_table_patch import read_all_tables


@pytest.fixture(autouse=True)
def reading() -> Iterator[None]:
    before = data.decode_value
    read_all_tables()
    read_all_tables()
    yield
    data.decode_value = before


def table(*values: bytes) -> bytes:
    """A table with names a, b, … and a text after each value, which shows whether the reader found the end."""
    text = b"S" + struct.pack(">I", 2) + b"ok"
    names = (bytes([1, ord("a") + number]) for number in range(2 * len(values)))
    content = b"".join(next(names) + part for value in values for part in (value, text))
    return struct.pack(">I", len(content)) + content


def read(value: bytes) -> object:
    read, end = data.decode_table(encoded := table(value), 0)
    assert end == len(encoded)
    assert read["b"] == "ok"
    return read["a"]


def nested(kind: bytes, depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        inside = (b"\x01x" if kind == b"F" else b"") + value
        value = kind + struct.pack(">I", len(inside)) + inside
    return value


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (253_402_300_799, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (253_402_300_800, 253_402_300_800),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (2**64 - 1, None),
    ],
)
def test_a_time_beyond_the_calendar_stays_a_number_that_can_be_sent_on(seconds: int, expected: object) -> None:
    assert read(b"T" + struct.pack(">Q", seconds)) == expected


@pytest.mark.parametrize(("kind", "empty"), [(b"F", {"x": None}), (b"A", [None])])
def test_what_is_nested_too_deep_is_left_out_whatever_its_depth(kind: bytes, empty: object) -> None:
    assert read(nested(kind, 1)) == empty
    for depth in (16, 17, 2000, 20_000):
        value, levels = read(nested(kind, depth)), 0
        while value is not None:
            value, levels = (value["x"] if isinstance(value, dict) else value[0]), levels + 1  # type: ignore[index]
        assert levels == min(depth, 16)
    assert read(nested(kind, 1)) == empty


@pytest.mark.parametrize("number", [0.5, -2.75, 1e19, float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["f", "d"])
def test_a_fraction_stays_one(number: float, kind: str) -> None:
    assert read(kind.encode() + struct.pack(f">{kind}", number)) == pytest.approx(number)
    assert math.isnan(read(kind.encode() + struct.pack(f">{kind}", math.nan)))  # type: ignore[arg-type]


def test_what_pika_reads_it_still_reads() -> None:
    pieces: list[bytes] = []
    table_of_values = {
        "text": "x",
        "number": -5,
        "large": 2**40,
        "list": [{"time": datetime(2026, 1, 2, tzinfo=UTC)}],
        "yes": True,
    }
    data.encode_table(pieces, table_of_values)
    assert data.decode_table(b"".join(pieces), 0)[0] == table_of_values
