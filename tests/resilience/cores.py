# SPDX-License-Identifier: Apache-2.0
"""The load generator has a core of its own: otherwise it is late as soon as the system uses all of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

ALL = frozenset(os.sched_getaffinity(0))


def leave_one_core() -> None:
    """This thread, and what it starts from now on, uses all cores but one; nothing changes when there is only one."""
    if len(ALL) > 1:
        os.sched_setaffinity(0, ALL - {max(ALL)})


@contextmanager
def on_the_free_core() -> Iterator[set[int]]:
    """This thread, and what it starts in the block, uses the core that was left; the cores that it used before."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, (ALL - before) or before)
    try:
        yield before
    finally:
        os.sched_setaffinity(0, before)
