# SPDX-License-Identifier: Apache-2.0
import time
import uuid

from orderflow.messaging.uuid7 import uuid7


def test_ids_are_of_version_7_and_the_variant_of_the_standard() -> None:
    made = uuid7()
    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_ids_carry_the_time_so_they_sort_by_it() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid7() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    milliseconds = [made.int >> 80 for made in ids]
    assert milliseconds == sorted(milliseconds)
    assert before <= milliseconds[0] <= milliseconds[-1] <= after


def test_ids_of_the_same_millisecond_differ() -> None:
    ids = [uuid7() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert len({made.int & (2**62 - 1) for made in ids}) == len(ids)
