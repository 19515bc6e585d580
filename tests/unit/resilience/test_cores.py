# SPDX-License-Identifier: Apache-2.0
import os
import threading
from collections.abc import Callable

import pytest

from tests.resilience.cores import ALL, leave_one_core, on_the_free_core


def cores_of(act: Callable[[], None]) -> set[int]:
    """The cores of a thread after ``act``; the thread ends then, so no other test is concerned."""
    found = set[int]()

    def run() -> None:
        act()
        found.update(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return found


@pytest.mark.skipif(len(ALL) < 2, reason="there is one core")
def test_load_and_system_share_no_core() -> None:
    during = list[set[int]]()

    def act() -> None:
        leave_one_core()
        with on_the_free_core() as cores:
            during.extend([cores, os.sched_getaffinity(0)])

    after = cores_of(act)
    system, load = during
    assert load == {max(ALL)}
    assert system == ALL - load
    assert after == system


def test_without_a_free_core_nothing_changes() -> None:
    def act() -> None:
        with on_the_free_core() as cores:
            assert cores == os.sched_getaffinity(0)

    assert cores_of(act) == ALL
