# SPDX-License-Identifier: Apache-2.0
"""When a consumer whose batch fails gives its messages back."""

from orderflow.messaging.clock import Clock

GIVE_BACK_SECONDS = 60.0
_MAX_SECONDS = 900.0
"""Less than the broker's consumer timeout (30 min), after which it would close the channel itself."""


class GiveBackTimer:
    """How long a batch may fail. It doubles each time until a batch succeeds: giving back costs a delivery count.

    With the default delivery limit of 20 messages could be given back for four hours.
    """

    def __init__(self, *, clock: Clock, first_seconds: float = GIVE_BACK_SECONDS) -> None:
        self._clock = clock
        self._first = self._seconds = first_seconds
        self._failing_since: float | None = None

    def ended(self) -> bool:
        """The batch has failed (again): whether it has failed for so long that everything is to be given back."""
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since < self._seconds:
            return False
        self._failing_since = None
        self._seconds = min(2 * self._seconds, _MAX_SECONDS)
        return True

    def reset(self) -> None:
        """A batch has succeeded."""
        self._failing_since, self._seconds = None, self._first
