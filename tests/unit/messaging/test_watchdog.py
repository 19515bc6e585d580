# SPDX-License-Identifier: Apache-2.0
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from local.eventually import eventually
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.watchdog import EXIT_STALLED, Watchdog, stacks

APP = str(Path(__file__).parents[3] / "app")


class Loops:
    """Loops whose idle time a test sets, and the exit codes that the watchdog asked for."""

    def __init__(self) -> None:
        self.idle: dict[str, float] = {}
        self.codes: list[int] = []
        self.clock = ManualClock()
        self.watchdog = Watchdog(lambda: self.idle, limit_seconds=60, clock=self.clock, exit_process=self.codes.append)

    def look_after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.watchdog.check()


@pytest.fixture
def loops() -> Loops:
    return Loops()


def test_a_process_that_makes_progress_is_not_ended(loops: Loops) -> None:
    loops.idle = {"relay": 59.9, "consume q": 0.0}
    for _ in range(100):
        loops.look_after(5)
    assert loops.codes == []


def test_a_loop_that_hangs_ends_the_process_and_says_where(loops: Loops, caplog: pytest.LogCaptureFixture) -> None:
    hanging = threading.Event()
    thread = threading.Thread(target=hanging.wait, name="consume q")
    thread.start()
    eventually(lambda: any("wait" in frame for frame in stacks()["consume q"]), what="the loop hangs")
    loops.idle = {"consume q": 61.0, "relay": 0.1}
    with caplog.at_level(logging.CRITICAL):
        loops.look_after(5)
    hanging.set()
    thread.join()
    assert loops.codes == [EXIT_STALLED]
    (record,) = caplog.records
    assert record.getMessage() == "watchdog.expired"
    assert getattr(record, "stalled") == {"consume q": 61.0}  # noqa: B009 - a field of the log line
    assert any("wait" in frame for frame in getattr(record, "stacks")["consume q"])  # noqa: B009


def test_after_the_machine_slept_the_loops_get_a_turn_first(loops: Loops) -> None:
    loops.idle = {"relay": 3600.0}
    loops.look_after(3600)
    assert loops.codes == []
    loops.look_after(5)
    assert loops.codes == [EXIT_STALLED]


def test_it_does_not_watch_itself(loops: Loops) -> None:
    loops.idle = {"watchdog": 1000.0}
    loops.look_after(5)
    assert loops.codes == []


def test_it_can_be_stopped() -> None:
    loops = Loops()
    loops.watchdog.stop()
    loops.watchdog.run()
    assert loops.clock.monotonic() == 0


def test_every_thread_is_in_the_stacks() -> None:
    assert any("stacks" in frame for frame in stacks()[threading.current_thread().name])


def test_a_real_process_ends_with_the_code() -> None:
    program = """
import threading, time
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.watchdog import Watchdog
begun = time.monotonic()
Watchdog(lambda: {"hangs": time.monotonic() - begun}, limit_seconds=0.2, clock=SystemClock()).run()
"""
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": APP}, timeout=20, check=False)
    assert done.returncode == EXIT_STALLED
