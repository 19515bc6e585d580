# SPDX-License-Identifier: Apache-2.0
"""Lets pika read every header table.

The broker passes on what pika 1.4 cannot read: a time after the year 9999 (milliseconds in place of seconds), or tables
nested beyond Python's recursion limit. pika then ends the connection, and the broker redelivers the message and all
others in flight, until it has dead-lettered them all. pika also converts every float to an integer; the integer of 1e19
is too large for pika to encode.
"""

import struct
import threading
from datetime import UTC, datetime
from typing import Any

from pika import data

_MAX_DEPTH = 16
"""The broker's own ``x-death`` lists are three levels deep."""
_TIME, _TABLE, _LIST = b"T", b"F", b"A"
_FLOATS = {b"f": ">f", b"d": ">d"}

_pikas_value = data.decode_value
_nesting = threading.local()


def read_all_tables() -> None:
    """Let pika read every table that the broker passes on, in the whole process; safe to repeat.

    A time that Python cannot represent is read as its number of seconds, or as None beyond a signed 64-bit integer. A
    value that is nested deeper than sixteen levels is None. A float stays a float.
    """
    data.decode_value = _value


def _value(encoded: bytes, offset: int) -> tuple[Any, int]:
    """The field value at an offset, and where the next one begins."""
    kind = encoded[offset : offset + 1]
    if kind == _TIME:
        (seconds,) = struct.unpack_from(">Q", encoded, offset + 1)
        return _moment(seconds), offset + 9
    if kind in _FLOATS:
        (number,) = struct.unpack_from(_FLOATS[kind], encoded, offset + 1)
        return number, offset + 1 + struct.calcsize(_FLOATS[kind])
    if kind not in {_TABLE, _LIST}:
        return _pikas_value(encoded, offset)
    depth = getattr(_nesting, "depth", 0)
    if depth == _MAX_DEPTH:
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
