# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, with a deadline."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


def eventually(
    condition: Callable[[], object], seconds: float = 10, *, what: str = "the condition", pause: float = 0.005
) -> None:
    """Poll until the condition is true. Raises TimeoutError, which names ``what``, after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


@asynccontextmanager
async def deadline(seconds: float, *, what: str) -> AsyncIterator[None]:
    """Cancel the block after that many seconds and raise TimeoutError, which names ``what`` did not happen."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"not within {seconds:g} s: {what}") from error
