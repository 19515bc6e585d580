# SPDX-License-Identifier: Apache-2.0
"""How long a loop collects before its next transaction: fewer transactions cost less CPU for each message.

A transaction costs the same for one message as for twenty: begin, commit, flush, and wake-ups of several processes.
So while there is work all the time, one begins every ``seconds``. After a time without work there is no wait: a single
order passes as fast as it can.
"""

from orderflow.messaging.clock import Clock


class Pace:
    """The time of one loop's last transaction, and how long to wait until the next."""

    def __init__(self, seconds: float, *, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next = float("-inf")

    def begin(self) -> None:
        """A transaction begins now."""
        self._next = self._clock.monotonic() + self._seconds

    @property
    def remaining(self) -> float:
        """Seconds to collect until the next one should begin; 0 when it may begin now."""
        return max(0.0, self._next - self._clock.monotonic())
