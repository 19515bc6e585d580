# SPDX-License-Identifier: Apache-2.0
"""One process: its threads, its signals, and its orderly shutdown."""

import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable

from orderflow.messaging.clock import Clock
from orderflow.runtime import Loop

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_UNFINISHED = 3


class Process:
    """Runs loops in threads until a signal arrives or a loop fails, then stops the loops in stages.

    A loop that raises ends the process. The supervisor starts a new process, which is safer than one that lacks a loop.
    """

    def __init__(self, name: str, *, clock: Clock, drain_timeout_seconds: float) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.second_signal = threading.Event()
        """Set by a second signal: the lame-duck wait ends immediately."""
        self.loops: list[Loop] = []
        self._clock = clock
        self._drain_timeout = drain_timeout_seconds
        self._stages: list[list[tuple[Loop, threading.Thread]]] = []
        self._before_stop: list[Callable[[], None]] = []
        self._failed = False

    def add(self, *loops: Loop) -> None:
        """Add loops that are stopped together. Loops added first are stopped first: add producers before sinks."""
        self.loops += loops
        self._stages.append([(loop, self._thread(loop)) for loop in loops])

    def before_stop(self, action: Callable[[], None]) -> None:
        """Call this when the process was asked to stop and is no longer ready, before any loop is stopped."""
        self._before_stop.append(action)

    def catch_signals(self) -> None:
        """SIGTERM and SIGINT stop the process from now on; a second signal shortens the stop.

        The interpreter runs a handler between any two steps of the main thread, which may hold the lock of an event at
        that moment. So the handlers do nothing, and a separate thread reads the signal numbers.
        """
        incoming, outgoing = socket.socketpair()
        outgoing.setblocking(False)
        signal.set_wakeup_fd(outgoing.detach())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._listen, args=(incoming,), name="signals", daemon=True).start()

    def run(self) -> int:
        """Run until stopped or a loop fails; the exit code: 0 done, 1 a loop failed, 3 a loop did not end in time."""
        # Objects that exist now live until the end; collecting them repeatedly costs a fifth of a consumer's CPU.
        gc.freeze()
        gc.set_threshold(50_000, 10, 10)
        for _, thread in self._threads():
            thread.start()
        log.info("process.started", extra={"loops": [loop.name for loop in self.loops]})
        while not self.stopping.wait(1):
            pass
        finished = self._stop()
        log.info("process.stopped", extra={"finished": finished, "failed": self._failed})
        return EXIT_FAILED if self._failed else 0 if finished else EXIT_UNFINISHED

    def idle_seconds(self) -> dict[str, float]:
        """Seconds since the last progress of each running loop."""
        now = self._clock.monotonic()
        return {loop.name: now - loop.last_progress for loop, thread in self._threads() if thread.is_alive()}

    def _thread(self, loop: Loop) -> threading.Thread:
        def run() -> None:
            try:
                loop.run()
            except BaseException:
                log.exception("loop.failed", extra={"loop": loop.name})
                self._failed = True
                self.stopping.set()

        return threading.Thread(target=run, name=loop.name, daemon=True)

    def _threads(self) -> Iterable[tuple[Loop, threading.Thread]]:
        return (pair for stage in self._stages for pair in stage)

    def _listen(self, incoming: socket.socket) -> None:
        while True:
            for number in incoming.recv(16):
                self._signalled(number)

    def _signalled(self, number: int) -> None:
        if self.stopping.is_set():
            self.second_signal.set()
            return
        log.info("process.stopping", extra={"signal": signal.Signals(number).name})
        self.stopping.set()

    def _stop(self) -> bool:
        for action in self._before_stop:
            action()
        deadline = self._clock.monotonic() + self._drain_timeout
        for stage in self._stages:
            for loop, _ in stage:
                loop.stop()
            for loop, thread in stage:
                thread.join(max(0.0, deadline - self._clock.monotonic()))
                if thread.is_alive():
                    log.warning("loop.unfinished", extra={"loop": loop.name})
                    getattr(loop, "give_up", loop.stop)()
        return not any(thread.is_alive() for _, thread in self._threads())
