# SPDX-License-Identifier: Apache-2.0
"""Isolates the failing items of a batch, so that the others are handled."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from orderflow.messaging.errors import InfrastructureError

Item = TypeVar("Item")


def bisect(
    items: Sequence[Item],
    attempt: Callable[[Sequence[Item]], None],
    on_failure: Callable[[Item, Exception], None],
) -> None:
    """Attempt all items together; when that fails, attempt each half, down to the failing item.

    ``attempt`` is all or nothing. The halves are attempted in order, so order is kept. ``on_failure`` is called for
    every item that fails alone. InfrastructureError is raised, because no item causes it; the items before it are done.
    One failing item among n costs about 2·log2(n) attempts.
    """
    if not items:
        return
    try:
        attempt(items)
    except InfrastructureError:
        raise
    except Exception as error:
        if len(items) == 1:
            on_failure(items[0], error)
            return
        middle = len(items) // 2
        bisect(items[:middle], attempt, on_failure)
        bisect(items[middle:], attempt, on_failure)
