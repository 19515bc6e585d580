# SPDX-License-Identifier: Apache-2.0
"""Creates ids that sort by time, so that new ones are added at the end of an index."""

import os
import time
from datetime import datetime
from uuid import UUID


def uuid7() -> UUID:
    """A new UUID version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80
    value |= 0x7 << 76 | (random >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF
    return UUID(int=value)


def first_uuid7(moment: datetime) -> UUID:
    """A UUID that sorts before every id of this moment or later, and after every earlier one."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
