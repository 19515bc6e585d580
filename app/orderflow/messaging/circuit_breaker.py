# SPDX-License-Identifier: Apache-2.0
"""Suspends calls while the other side does not respond, and finds out when it does again.

::

    closed ── MAX_FAILURES calls in a row without response ── open ── a probe a second ── first response ── closed

Any response counts, also a refusal. While it is open, one call a second is let through; a probe does not wait for the
end of the one before, which may take as long as a time-out.
"""

from orderflow.messaging.clock import Clock

MAX_FAILURES = 3
"""With the delays of payments, none of these calls has by then waited for more than a second."""
PROBE_SECONDS = 1.0


class CircuitBreaker:
    """For one other side and one thread."""

    def __init__(self, *, clock: Clock) -> None:
        self.is_open = False
        self._clock = clock
        self._failures = 0
        self._probe_at = 0.0

    def room(self, places: int) -> int:
        """How many calls may begin now when there are so many places: all, or a probe when one is due."""
        if not self.is_open:
            return places
        return min(places, 1) if self._clock.monotonic() >= self._probe_at else 0

    def began(self, calls: int) -> None:
        """So many calls were begun."""
        if self.is_open and calls:
            self._probe_at = self._clock.monotonic() + PROBE_SECONDS

    def ended(self, *, responded: bool) -> bool:
        """A call ended; true when that opened or closed the circuit."""
        self._failures = 0 if responded else self._failures + 1
        was_open, self.is_open = self.is_open, self._failures >= MAX_FAILURES or (self.is_open and not responded)
        if self.is_open and not was_open:
            self._probe_at = self._clock.monotonic() + PROBE_SECONDS
        return self.is_open is not was_open
