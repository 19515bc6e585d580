# SPDX-License-Identifier: Apache-2.0
"""How long to wait after a failure: exponential, with jitter, so that clients do not retry in step."""

import random

_MAX_DOUBLINGS = 32


def delay_seconds(attempts: int, *, first: float, most: float, rng: random.Random | None = None) -> float:
    """The delay after so many failed attempts (0 for the first): ``first``, doubling up to ``most``, in seconds.

    Between half of that and all of it, at random: for attempts that are stored with their number.
    """
    step = _step(attempts, first, most)
    return (rng or random).uniform(step / 2, step)


class Backoff:
    """Counts the failures of one loop. Full jitter: between a tenth of the exponential step and all of it.

    The defaults suit a server that is away: quickly back after a restart, and no load on it however long that takes.
    """

    def __init__(self, *, first: float = 0.05, most: float = 2.0, rng: random.Random | None = None) -> None:
        self._first = first
        self._most = most
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait now. At least a tenth of the step, so that no loop spins."""
        step = _step(self._failures, self._first, self._most)
        self._failures += 1
        return self._rng.uniform(step / 10, step)

    def reset(self) -> None:
        """Begin again at the first step, after a success."""
        self._failures = 0


def _step(failures: int, first: float, most: float) -> float:
    return min(most, first * 2.0 ** min(failures, _MAX_DOUBLINGS))
