# SPDX-License-Identifier: Apache-2.0
"""Time as a parameter, so that a test can move it."""

import time
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from, and how to wait."""

    def monotonic(self) -> float:
        """Seconds that never go backwards."""

    def now(self) -> datetime:
        """The time of day in UTC."""

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until the event is set or the seconds are over; true when it is set."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def now(self) -> datetime:
        """The time of day in UTC."""
        return datetime.now(UTC)

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until the event is set or the seconds are over; true when it is set."""
        return event.wait(seconds)


class ManualClock:
    """A clock that a test moves; ``wait`` moves it without waiting."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = now
        self._elapsed = 0.0

    def monotonic(self) -> float:
        """Seconds moved so far."""
        return self._elapsed

    def now(self) -> datetime:
        """The start plus the seconds moved so far."""
        return self._start + timedelta(seconds=self._elapsed)

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._elapsed += seconds

    def wait(self, event: Event, seconds: float) -> bool:
        """Move the time forward by the whole wait, unless the event is set already."""
        if not event.is_set():
            self.advance(seconds)
        return event.is_set()
