# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable


def eventually(
    condition: Callable[[], object], seconds: float = 10, *, what: str = "the condition", pause: float = 0.005
) -> None:
    """Poll until the condition is true. Raises TimeoutError, which names ``what``, after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
