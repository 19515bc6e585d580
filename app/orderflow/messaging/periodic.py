# SPDX-License-Identifier: Apache-2.0
"""Repeats an action in intervals: hold expiry, pruning, reconciling."""

import logging
import threading
from collections.abc import Callable

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import InfrastructureError

log = logging.getLogger(__name__)

_STEP_SECONDS = 2.0
"""Longest wait between two updates of ``last_progress``: less than half of the shortest limit of a watchdog."""


class Periodic:
    """Calls an action every ``interval_seconds`` in one thread, and immediately again when the action returned True.

    It rests at least ``rest_factor`` times as long as the action took, even when the action failed. ``last_progress``
    is updated during a rest, so a watchdog sees only an action that hangs as stalled.
    """

    def __init__(
        self,
        name: str,
        interval_seconds: float,
        action: Callable[[], bool | None],
        *,
        clock: Clock,
        rest_factor: float = 0,
        backoff: Backoff | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.last_progress = clock.monotonic()
        self._interval = interval_seconds
        self._action = action
        self._clock = clock
        self._rest_factor = rest_factor
        self._close = close
        self._stopping = threading.Event()
        self._backoff = backoff or Backoff()

    def run(self) -> None:
        """Call the action until stopped. InfrastructureError is logged and retried later; other errors are raised."""
        while not self._stopping.is_set():
            begun = self.last_progress = self._clock.monotonic()
            pause = self._turn()
            self._rest(max(pause, self._rest_factor * (self._clock.monotonic() - begun)))
        if self._close is not None:
            self._close()

    def stop(self) -> None:
        """Return from ``run`` after the current call."""
        self._stopping.set()

    def _turn(self) -> float:
        """Call the action once; the seconds to rest before the next time."""
        try:
            more = self._action()
        except InfrastructureError as error:
            log.warning("periodic.paused", extra={"task": self.name, "error": str(error)})
            return self._backoff.next()
        self._backoff.reset()
        return 0 if more else self._interval

    def _rest(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self.last_progress = self._clock.monotonic()
            if self._clock.wait(self._stopping, min(left, _STEP_SECONDS)):
                return
