# SPDX-License-Identifier: Apache-2.0
"""Limits the requests of each client with a token bucket, and tells the client in every response what is left.

The headers are those of draft-ietf-httpapi-ratelimit-headers. The buckets are in the memory of one process, and used by
its event loop only, so a request costs one look-up: n processes of an API together allow n times the limit.
"""

import math
from collections.abc import MutableMapping
from typing import Any

from orderflow.http.asgi import RESPONSE_HEADERS
from orderflow.http.problems import QUOTA_EXCEEDED, Problem
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock

_POLICY = "default"


class RateLimit:
    """``per_second`` requests of each client, and ``burst`` requests at once after a pause."""

    def __init__(self, *, per_second: float, burst: int, clock: Clock, instrumentation: Instrumentation) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._instrumentation = instrumentation
        self._full_at: dict[str, float] = {}
        """By client: when its bucket is full again. Only known clients have one, so their number is bounded."""
        window = math.ceil(burst / per_second)
        self._policy = (b"ratelimit-policy", f'"{_POLICY}";q={burst};w={window}'.encode())

    def take(self, client: str, scope: MutableMapping[str, Any]) -> None:
        """Count a request, and put the headers of its response in the scope; raises Problem 429 above the limit."""
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(client, now), now)
        tokens = self._burst - (full_at - now) * self._per_second
        if tokens < 1:
            wait = max(1, math.ceil((1 - tokens) / self._per_second))
            scope[RESPONSE_HEADERS] = self._headers(0, wait)
            self._instrumentation.rate_limited(client)
            raise Problem(QUOTA_EXCEEDED, headers={"Retry-After": str(wait)})
        full_at += 1 / self._per_second
        self._full_at[client] = full_at
        scope[RESPONSE_HEADERS] = self._headers(int(tokens - 1), math.ceil(full_at - now))

    def _headers(self, remaining: int, seconds: int) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
        return self._policy, (b"ratelimit", f'"{_POLICY}";r={remaining};t={seconds}'.encode())
