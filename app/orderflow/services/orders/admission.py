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
refusing                             one order per second is accepted, so that a recovery is seen
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
        self._predicted = 0.0
        self._probe_at = 0.0

    def update(self, progress: Progress) -> None:
        """Take over a look at the progress."""
        self._predicted, reason = max(
            (_standing_seconds(progress.reservation), "reservations_delayed"),
            (_standing_seconds(progress.payment), "payments_delayed"),
            (_backlog_seconds(progress.reservation) + _backlog_seconds(progress.payment), "backlog_too_long"),
        )
        limit = self._limit * (REOPEN_SHARE if self._reason else 1.0)
        self._reason = reason if self._predicted > limit else None
        self._instrumentation.admission(predicted_seconds=self._predicted, accepting=self._reason is None)

    def check(self) -> Refusal | None:
        """None when an order may be accepted now."""
        reason = self._reason
        if reason is None:
            return None
        now = self._clock.monotonic()
        if now >= self._probe_at:
            self._probe_at = now + PROBE_SECONDS
            return None
        excess = self._predicted - REOPEN_SHARE * self._limit
        # Spread over twice the time, so that the refused clients do not come back together.
        wait = math.ceil(max(1.0, excess) * random.uniform(1, 2))  # noqa: S311 - not a secret
        return Refusal(reason, min(wait, MAX_RETRY_AFTER_SECONDS))


def _standing_seconds(step: Step) -> float:
    """How long orders have waited for a step that nothing completes; 0 while it makes progress."""
    return 0.0 if step.per_second else step.age_seconds


def _backlog_seconds(step: Step) -> float:
    """How long the waiting orders take at the rate of the step; 0 when it was not busy all the time.

    The rate of a time with few orders says nothing about what the services can do.
    """
    if step.age_seconds < WINDOW_SECONDS or not step.per_second:
        return 0.0
    return step.waiting / step.per_second
