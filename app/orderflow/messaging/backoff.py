# SPDX-License-Identifier: Apache-2.0
"""How long to wait after a failure: exponential, with jitter, so that clients do not retry in step."""

import random

_MAX_DOUBLINGS = 32


def delay_seconds(attempts: int, *, first: float, maximum: float, rng: random.Random | None = None) -> float:
    """The delay before the next attempt, in seconds: ``first``, doubled ``attempts`` times, at most ``maximum``.

    Random between half of that and all of it. For attempts whose number is stored; a loop uses ``Backoff``.
    """
    step = _step(attempts, first, maximum)
    return (rng or random).uniform(step / 2, step)


class Backoff:
    """Counts the failures of one loop. Waits a random time between a tenth of the exponential step and all of it.

    The defaults suit a server that is away: a short wait after a restart, and little load however long it is away.
    """

    def __init__(self, *, first: float = 0.05, maximum: float = 2.0, rng: random.Random | None = None) -> None:
        self._first = first
        self._maximum = maximum
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait now. At least a tenth of the step, so that no loop spins."""
        step = _step(self._failures, self._first, self._maximum)
        self._failures += 1
        return self._rng.uniform(step / 10, step)

    def reset(self) -> None:
        """Start again at the first step, after a success."""
        self._failures = 0


def _step(failures: int, first: float, maximum: float) -> float:
    return min(maximum, first * 2.0 ** min(failures, _MAX_DOUBLINGS))
