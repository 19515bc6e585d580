# SPDX-License-Identifier: Apache-2.0
"""The wire format of Protocol Buffers, as far as spans need it: https://protobuf.dev/programming-guides/encoding/"""

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types."""
_UINT64 = 2**64 - 1


def varint(number: int) -> bytes:
    """An integer; a negative one as 64 bits in two's complement."""
    if 0 <= number < 0x80:
        return _SINGLE[number]
    number &= _UINT64
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag(field: int, wire_type: int) -> bytes:
    """What precedes the value of a field."""
    return varint(field << 3 | wire_type)


def delimited(field: int) -> bytes:
    """The tag of a field with bytes, a text or a message."""
    return tag(field, LENGTH_DELIMITED)


def sized(value: bytes) -> bytes:
    """The value of a length-delimited field."""
    return varint(len(value)) + value


_SINGLE = [bytes((number,)) for number in range(0x80)]
