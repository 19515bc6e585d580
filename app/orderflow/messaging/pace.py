# SPDX-License-Identifier: Apache-2.0
"""How long a loop collects before its next transaction: fewer transactions cost less CPU for each message.

A transaction costs the same for one message as for twenty: begin, commit, flush, and wake-ups of several processes.
So while there is work all the time, one begins every ``seconds``. After a time without work there is no wait: a single
order passes as fast as it can.

A transaction that takes long shows that the CPU or the database is short. Then larger ones are needed most, and what
the wait adds to the time of an order is small beside what it waits anyway.
"""

from orderflow.messaging.clock import Clock

_SHARE = 1 / 4
"""The part of the time that transactions should take at most."""
_LONGEST = 4
"""The longest wait, as a multiple of ``seconds``; a database that hangs must not slow the loop down afterwards."""


class Pace:
    """The time of one loop's last transaction, and how long to wait until the next."""

    def __init__(self, seconds: float, *, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._begun = self._next = float("-inf")

    def begin(self) -> None:
        """A transaction begins now."""
        self._begun = self._clock.monotonic()
        self._next = self._begun + self._seconds

    def end(self) -> None:
        """The transaction has ended."""
        taken = self._clock.monotonic() - self._begun
        self._next = self._begun + min(max(self._seconds, taken / _SHARE), _LONGEST * self._seconds)

    @property
    def remaining(self) -> float:
        """Seconds to collect until the next one should begin; 0 when it may begin now."""
        return max(0.0, self._next - self._clock.monotonic())
