# SPDX-License-Identifier: Apache-2.0
"""Ends a process that makes no progress: a thread that hangs keeps messages that another process could handle."""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping

from orderflow.messaging.clock import Clock

log = logging.getLogger(__name__)

EXIT_STALLED = 70


class Watchdog:
    """Checks several times per ``limit_seconds`` whether a loop has been idle for longer than that.

    ``idle_seconds`` returns the seconds since the last progress of each loop. When a loop exceeds the limit, the stacks
    of all threads are logged and the process ends immediately with exit code 70, without draining: its supervisor
    starts a new process, and the broker delivers again what was not acknowledged.
    """

    def __init__(
        self,
        idle_seconds: Callable[[], Mapping[str, float]],
        *,
        limit_seconds: float,
        clock: Clock,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self.name = "watchdog"
        self.last_progress = clock.monotonic()
        self._idle_seconds = idle_seconds
        self._limit = limit_seconds
        self._pause = min(5.0, limit_seconds / 10)
        self._clock = clock
        self._exit_process = exit_process
        self._stopping = threading.Event()

    def run(self) -> None:
        """Watch until stopped."""
        while not self._clock.wait(self._stopping, self._pause):
            self.check()

    def stop(self) -> None:
        """Return from ``run``."""
        self._stopping.set()

    def check(self) -> None:
        """Check once. After a gap in its own sleep (the machine was suspended) it waits for the next check."""
        now = self._clock.monotonic()
        gap, self.last_progress = now - self.last_progress, now
        stalled = self.stalled()
        if not stalled or gap > self._limit / 2:
            return
        log.critical("watchdog.expired", extra={"stalled": stalled, "stacks": stacks()})
        for handler in logging.getLogger().handlers:
            handler.flush()
        self._exit_process(EXIT_STALLED)

    def stalled(self) -> dict[str, float]:
        """The loops that have been idle for longer than the limit, with their seconds."""
        return {
            name: round(seconds, 1)
            for name, seconds in self._idle_seconds().items()
            if seconds > self._limit and name != self.name
        }


def stacks() -> dict[str, list[str]]:
    """The stack of every thread of the process, innermost call last, by the thread's name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack(current)
        ]
        for ident, current in sys._current_frames().items()  # noqa: SLF001 - the documented way
    }
