# SPDX-License-Identifier: Apache-2.0
"""A process starts its loops, stops them in order, and reports failures."""

import signal
import subprocess
import sys
import threading

import pytest

from local.eventually import eventually
from orderflow.bootstrap.process import EXIT_FAILED, EXIT_UNFINISHED, Process
from orderflow.messaging.clock import ManualClock, SystemClock


class FakeLoop:
    """Runs until it is stopped, and records its end."""

    def __init__(self, name: str, ended: list[str], *, stubborn: bool = False) -> None:
        self.name = name
        self.last_progress = 0.0
        self._ended = ended
        self._stubborn = stubborn
        self._stopped = threading.Event()
        self.given_up = threading.Event()

    def run(self) -> None:
        self._thread = threading.current_thread()
        self._stopped.wait()
        if self._stubborn:
            self.given_up.wait()
        self._ended.append(self.name)

    def stop(self) -> None:
        self._stopped.set()

    def give_up(self) -> None:
        """End the thread before the process looks whether it ended."""
        self.given_up.set()
        self._thread.join(60)


class HangingLoop(FakeLoop):
    """Does not end even when it is given up."""

    def __init__(self, name: str, ended: list[str]) -> None:
        super().__init__(name, ended)
        self.released = threading.Event()

    def run(self) -> None:
        self.released.wait()

    def give_up(self) -> None:
        self.given_up.set()


class FailingLoop(FakeLoop):
    def run(self) -> None:
        raise RuntimeError("broken")


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)


def process(drain_timeout_seconds: float = 5) -> Process:
    return Process("test", clock=SystemClock(), drain_timeout_seconds=drain_timeout_seconds)


def test_loops_are_stopped_in_the_order_in_which_they_were_added() -> None:
    ended: list[str] = []
    subject = process()
    subject.before_stop(lambda: ended.append("not ready"))
    for name in ("http", "consume", "relay"):
        subject.add(FakeLoop(name, ended))
    subject.stopping.set()
    assert subject.run() == 0
    assert ended == ["not ready", "http", "consume", "relay"]


def test_a_loop_that_raises_ends_the_process_with_a_failure() -> None:
    ended: list[str] = []
    subject = process()
    subject.add(FakeLoop("consume", ended), FailingLoop("relay", ended))
    assert subject.run() == EXIT_FAILED
    assert ended == ["consume"]


def test_a_loop_that_does_not_finish_in_time_is_given_up() -> None:
    ended: list[str] = []
    subject = process(drain_timeout_seconds=0.01)
    subject.add(FakeLoop("consume", ended, stubborn=True))
    subject.stopping.set()
    assert subject.run() == 0
    assert ended == ["consume"]


def test_a_process_with_a_loop_that_never_finishes_says_so_and_ends() -> None:
    ended: list[str] = []
    loop = HangingLoop("consume", ended)
    subject = process(drain_timeout_seconds=0.01)
    subject.add(loop, FakeLoop("relay", ended))
    subject.stopping.set()
    try:
        assert subject.run() == EXIT_UNFINISHED
        assert (loop.given_up.is_set(), ended) == (True, ["relay"])
    finally:
        loop.released.set()


def test_the_time_to_finish_begins_when_the_process_is_no_longer_sent_anything() -> None:
    ended: list[str] = []
    subject = process(drain_timeout_seconds=5)
    clock = ManualClock()
    subject._clock = clock
    subject.before_stop(lambda: clock.advance(60))
    loop = FakeLoop("http", ended)
    subject.add(loop)
    subject.stopping.set()
    assert subject.run() == 0
    assert (ended, loop.given_up.is_set()) == (["http"], False)


SIGNALLED = """
import threading
from orderflow.messaging.clock import SystemClock
from orderflow.bootstrap.process import Process

process = Process("test", clock=SystemClock(), drain_timeout_seconds=5)
process.catch_signals()


def stop() -> None:
    print("stopping", flush=True)
    print("second signal", process.second_signal.wait(60), flush=True)


process.before_stop(stop)
threading.Thread(target=lambda: print("up", flush=True)).start()
raise SystemExit(process.run())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_process_and_a_second_one_hurries_it(number: signal.Signals) -> None:
    # A shell starts background programs with SIGINT ignored; the process must handle it all the same.
    with subprocess.Popen([sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(number)
        assert running.stdout.readline() == "stopping\n"
        running.send_signal(number)
        assert running.stdout.read() == "second signal True\n"
        assert running.wait(60) == 0


def test_idle_seconds_are_reported_for_each_running_loop() -> None:
    clock = ManualClock()
    subject = Process("test", clock=clock, drain_timeout_seconds=5)
    consume, relay = FakeLoop("consume", []), FakeLoop("relay", [])
    consume.last_progress, relay.last_progress = clock.monotonic(), clock.monotonic() + 3
    clock.advance(10)
    subject.add(consume, relay)
    assert subject.idle_seconds() == {}
    running = threading.Thread(target=subject.run)
    running.start()
    try:
        eventually(lambda: subject.idle_seconds() == {"consume": 10, "relay": 7}, what="both loops are reported")
        consume.stop()
        eventually(lambda: subject.idle_seconds() == {"relay": 7}, what="only the running loop is reported")
    finally:
        subject.stopping.set()
        running.join(60)
