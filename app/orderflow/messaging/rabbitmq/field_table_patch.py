# SPDX-License-Identifier: Apache-2.0
"""Header tables, read without fail.

The broker passes on what pika 1.4 cannot read: a time after the year 9999 (milliseconds that somebody took for
seconds), or tables in tables beyond Python's recursion limit. pika then ends the connection in the middle of the
message; it comes again, with everything that was delivered beside it, until the broker has parked them all. And pika
makes a whole number of every fraction, which for 1e19 is one that it cannot write again.
"""

import struct
import threading
from datetime import UTC, datetime
from typing import Any

from pika import data

_DEEPEST = 16
"""The broker's own lists of deaths are three levels deep."""
_TIME, _TABLE, _LIST = b"T", b"F", b"A"
_FRACTIONS = {b"f": ">f", b"d": ">d"}

_pikas_value = data.decode_value
_nesting = threading.local()


def read_all_tables() -> None:
    """Let pika read every table that the broker passes on, in the whole process; safe to repeat.

    A time that Python cannot hold stays the number that it was, unless that is beyond 64 bits with a sign; such a time
    and what is nested deeper than sixteen levels is None. A fraction is a float.
    """
    data.decode_value = _value


def _value(encoded: bytes, offset: int) -> tuple[Any, int]:
    """The field value at an offset, and where the next one begins."""
    kind = encoded[offset : offset + 1]
    if kind == _TIME:
        (seconds,) = struct.unpack_from(">Q", encoded, offset + 1)
        return _moment(seconds), offset + 9
    if kind in _FRACTIONS:
        (fraction,) = struct.unpack_from(_FRACTIONS[kind], encoded, offset + 1)
        return fraction, offset + 1 + struct.calcsize(_FRACTIONS[kind])
    if kind not in {_TABLE, _LIST}:
        return _pikas_value(encoded, offset)
    depth = getattr(_nesting, "depth", 0)
    if depth == _DEEPEST:
        (size,) = struct.unpack_from(">I", encoded, offset + 1)
        return None, offset + 5 + size
    _nesting.depth = depth + 1
    try:
        return _pikas_value(encoded, offset)
    finally:
        _nesting.depth = depth


def _moment(seconds: int) -> datetime | int | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return seconds if seconds < 1 << 63 else None
