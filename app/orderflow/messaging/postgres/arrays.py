# SPDX-License-Identifier: Apache-2.0
"""Packs lists as PostgreSQL's binary arrays, which are most of what a batch sends to the database.

The driver calls a dumper object per element and escapes strings with regular expressions; that was half of the CPU time
of a message. https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-FORMAT-CODES
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from orderflow.messaging.errors import BadData

_header = struct.Struct("!iiiii").pack  # dimensions, has nulls, element oid, length, lower bound
_length = struct.Struct("!i").pack
_bigint = struct.Struct("!iq").pack

Packer = Callable[[Sequence[Any]], bytes]


def packer(values: Sequence[object]) -> tuple[type, int, Packer] | None:
    """The element type, the oid of the array and the function that packs it; None for other lists.

    Only lists whose elements all have the same type, which is UUID, str, bytes or int, are packed here.
    """
    types = set(map(type, values))
    return _PACKERS.get(types.pop()) if len(types) == 1 else None


def _uuids(values: Sequence[UUID]) -> bytes:
    return _header(1, 0, 2950, len(values), 1) + b"".join([b"\0\0\0\x10" + value.bytes for value in values])


def _texts(values: Sequence[str]) -> bytes:
    return _blobs([value.encode() for value in values], 25)


def _blobs(values: Sequence[bytes], oid: int = 17) -> bytes:
    return _header(1, 0, oid, len(values), 1) + b"".join([_length(len(value)) + value for value in values])


def _bigints(values: Sequence[int]) -> bytes:
    try:
        return _header(1, 0, 20, len(values), 1) + b"".join([_bigint(8, value) for value in values])
    except struct.error:
        raise BadData("an integer has more than 64 bits") from None


_PACKERS: dict[type, tuple[type, int, Packer]] = {
    UUID: (UUID, 2951, _uuids),
    str: (str, 1009, _texts),
    bytes: (bytes, 1001, _blobs),
    int: (int, 1016, _bigints),
}
