# SPDX-License-Identifier: Apache-2.0
"""How long to wait after a failure: longer each time, and never in step with others."""

import random


class Backoff:
    """Exponential back-off with full jitter: up to ``first`` seconds, doubling up to ``most``."""

    def __init__(self, *, first: float = 0.1, most: float = 10.0, rng: random.Random | None = None) -> None:
        self._first = first
        self._most = most
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait now; at least a tenth of the step, so that nobody spins."""
        step = min(self._most, self._first * 2**self._failures)
        self._failures = min(self._failures + 1, 32)
        return self._rng.uniform(step / 10, step)

    def reset(self) -> None:
        """Something worked: begin again at the first step."""
        self._failures = 0
