# SPDX-License-Identifier: Apache-2.0
"""How long to wait before a connection or channel is opened again: quick at first, jittered, capped.

What never opened cost nothing, so it is tried again within two seconds however long the broker is away. What opened
and ended soon may have cost a delivery count of all that was prefetched, which leads to the delivery limit: such ends
are counted until one lasts, and the waits grow to ten seconds.
"""

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.clock import Clock

PROVEN_SECONDS = 10.0
"""What lasted so long is not to blame for its end."""


class Reopening:
    """The waits of one connection or channel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused = Backoff(first=0.05, maximum=2)
        self._unproven = Backoff(first=0.2, maximum=10)
        self._opened_at: float | None = None

    def opened(self) -> None:
        """It is open, or consumes."""
        self._opened_at = self._clock.monotonic()
        self._refused.reset()

    def pause(self) -> float:
        """It has ended, or was refused: the seconds to wait now."""
        opened_at, self._opened_at = self._opened_at, None
        if opened_at is None:
            return self._refused.next()
        if self._clock.monotonic() - opened_at < PROVEN_SECONDS:
            return self._unproven.next()
        self._unproven.reset()
        return self._refused.next()
