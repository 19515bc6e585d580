# SPDX-License-Identifier: Apache-2.0
"""Ends a process that no longer moves: a thread that hangs holds messages that another process could handle."""

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
    """Looks several times per ``limit_seconds`` whether some loop has been idle for longer than that.

    ``idle_seconds`` gives the seconds since each loop was last seen moving. When one is over the limit, the stacks of
    all threads are logged and the process ends at once with exit code 70, without draining: its supervisor
    starts another, and the broker delivers again what was not acknowledged.
    """

    def __init__(
        self,
        idle_seconds: Callable[[], Mapping[str, float]],
        *,
        limit_seconds: float,
        clock: Clock,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.name = "watchdog"
        self.last_progress = clock.monotonic()
        self._idle_seconds = idle_seconds
        self._limit = limit_seconds
        self._pause = min(5.0, limit_seconds / 10)
        self._clock = clock
        self._leave = leave
        self._stopping = threading.Event()

    def run(self) -> None:
        """Watch until stopped."""
        while not self._clock.wait(self._stopping, self._pause):
            self.check()

    def stop(self) -> None:
        """Return from ``run``."""
        self._stopping.set()

    def check(self) -> None:
        """Look once. After a gap in its own sleep (the machine was suspended) it first gives the loops a turn."""
        now = self._clock.monotonic()
        gap, self.last_progress = now - self.last_progress, now
        stalled = self.stalled()
        if not stalled or gap > self._limit / 2:
            return
        log.critical("watchdog.expired", extra={"stalled": stalled, "stacks": stacks()})
        for handler in logging.getLogger().handlers:
            handler.flush()
        self._leave(EXIT_STALLED)

    def stalled(self) -> dict[str, float]:
        """The loops that have been idle for longer than the limit, with their seconds."""
        return {
            name: round(seconds, 1)
            for name, seconds in self._idle_seconds().items()
            if seconds > self._limit and name != self.name
        }


def stacks() -> dict[str, list[str]]:
    """Where every thread of the process is now, innermost call last, by the thread's name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(ident, str(ident)): [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack(current)
        ]
        for ident, current in sys._current_frames().items()  # noqa: SLF001 - the documented way
    }
