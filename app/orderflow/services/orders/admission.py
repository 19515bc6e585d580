# SPDX-License-Identifier: Apache-2.0
"""Decides whether a new order is accepted: only when it can still be decided in time.

An order that expires in a queue costs as much as one that is sold. A shop that accepts more than it can decide soon
only handles expired orders, and does not recover while the load lasts. So the API refuses what would wait too long, and
what it accepted before is sold.

==================================== ==================================================================================
State of the shop                    What happens
==================================== ==================================================================================
a step stands still                  the age of the oldest order that waits for it grows; at the limit new orders are
                                     refused
more orders than can be handled      waiting orders / rate, of both steps together, reaches the limit; about as many
                                     as are handled are accepted, and the others are refused. The age of the oldest
                                     says nothing then: while a queue is emptied, its head has always waited for long
some customers pay slowly            their orders are behind the frontier (``progress``) and do not count
a sale begins                        accepted: the rate is that of the time before, when little was ordered, and counts
                                     only when orders have waited for all of the time it was measured in
refusing                             near the limit one order per second is accepted, so that a recovery is seen; the
                                     further below it, the more, up to twice as many as are handled. So a long overload
                                     has a steady flow of orders, not bursts for which APIs and services take turns
==================================== ==================================================================================
"""

import math
import random
from dataclasses import dataclass

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock
from orderflow.services.orders.progress import WINDOW_SECONDS, Progress, Step

REOPEN_SHARE = 0.5
"""Refusing ends when the prediction is below this share of the limit, so that it does not begin again at once."""
PROBE_SECONDS = 1.0
_BURST_SECONDS = 0.1
"""An order that could have been accepted this long ago may still be: requests do not come evenly."""
_SHARE_OF_A_LOOK = 0.1
"""Of one look in the average rate of a step. Rates go up and down, because APIs and services take turns on a CPU."""
MAX_RETRY_AFTER_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an order is refused: one of ``instrumentation.REFUSALS``. ``retry_after`` is in seconds."""

    reason: str
    retry_after: int


class Admission:
    """Refuses orders whose decision is predicted to take longer than ``limit_seconds``.

    ``update`` is called by the thread that looks at the progress, ``check`` by the event loop of the API.
    """

    def __init__(self, *, limit_seconds: float, clock: Clock, instrumentation: Instrumentation) -> None:
        self._limit = limit_seconds
        self._clock = clock
        self._instrumentation = instrumentation
        self._reason: str | None = None
        self._reservation, self._payment = _Backlog(), _Backlog()
        self._predicted = 0.0
        self._spacing = PROBE_SECONDS
        """Seconds between two accepted orders while others are refused."""
        self._accepted_at = 0.0
        """When the last order was due that was accepted while others were refused."""

    def update(self, progress: Progress) -> None:
        """Take over a look at the progress."""
        self._reservation.update(progress.reservation)
        self._payment.update(progress.payment)
        self._predicted, reason = max(
            (_standing_seconds(progress.reservation), "reservations_delayed"),
            (_standing_seconds(progress.payment), "payments_delayed"),
            (self._reservation.seconds + self._payment.seconds, "backlog_too_long"),
        )
        limit = self._limit * (REOPEN_SHARE if self._reason else 1.0)
        self._spacing = 1 / max(1 / PROBE_SECONDS, self._room() * self._handled_per_second())
        self._reason = reason if self._predicted > limit else None
        self._instrumentation.admission(predicted_seconds=self._predicted, accepting=self._reason is None)

    def check(self) -> Refusal | None:
        """None when an order may be accepted now."""
        reason = self._reason
        if reason is None:
            return None
        now = self._clock.monotonic()
        due = self._accepted_at + self._spacing
        if now >= due:
            self._accepted_at = max(due, now - _BURST_SECONDS)
            return None
        excess = self._predicted - REOPEN_SHARE * self._limit
        # Spread over twice the time, so that the refused clients do not come back together.
        wait = math.ceil(max(1.0, excess) * random.uniform(1, 2))  # noqa: S311 - not a secret
        return Refusal(reason, min(wait, MAX_RETRY_AFTER_SECONDS))

    def _room(self) -> float:
        """How many of the orders that are handled may be accepted: none at the limit, twice as many when refusing ends.

        Halfway as many are accepted as are handled, so the backlog stays what it is.
        """
        return max(0.0, 2 * (1 - self._predicted / self._limit) / (1 - REOPEN_SHARE))

    def _handled_per_second(self) -> float:
        """Orders per second that the slower of the busy steps completes; 0 when none is busy."""
        return min((step.per_second for step in (self._reservation, self._payment) if step.per_second), default=0.0)


class _Backlog:
    """What waits for a step, and how many it completes per second while it is busy."""

    def __init__(self) -> None:
        self.per_second = 0.0
        """The average since the step became busy, later weights more; 0 while it is not."""
        self.seconds = 0.0
        """How long the waiting orders take; 0 when that is not known."""
        self._looks = 0

    def update(self, step: Step) -> None:
        """Take over a look."""
        if not _busy(step):
            self.per_second, self.seconds, self._looks = 0.0, 0.0, 0
            return
        self._looks += 1
        self.per_second += (step.per_second - self.per_second) * max(_SHARE_OF_A_LOOK, 1 / self._looks)
        self.seconds = step.waiting / self.per_second


def _standing_seconds(step: Step) -> float:
    """How long orders have waited for a step that nothing completes; 0 while it makes progress."""
    return 0.0 if step.per_second else step.age_seconds


def _busy(step: Step) -> bool:
    """Whether the rate of the step is what it can do: orders have waited for all of the time it was measured in."""
    return step.age_seconds >= WINDOW_SECONDS and step.per_second > 0
