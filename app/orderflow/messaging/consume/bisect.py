# SPDX-License-Identifier: Apache-2.0
"""One bad item must not take its neighbours with it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from orderflow.messaging.errors import InfrastructureError

Item = TypeVar("Item")


def isolate(
    items: Sequence[Item],
    attempt: Callable[[Sequence[Item]], None],
    culprit: Callable[[Item, Exception], None],
) -> None:
    """Attempt all items at once; when that fails, attempt each half, down to the item that is to blame.

    ``attempt`` is all or nothing. The halves are attempted in order, so order is kept. ``culprit`` hears of every
    item that fails alone. InfrastructureError is nobody's fault: it is raised, and the items before it are done.
    With one culprit among n items this costs about 2·log2(n) attempts.
    """
    if not items:
        return
    try:
        attempt(items)
    except InfrastructureError:
        raise
    except Exception as error:
        if len(items) == 1:
            culprit(items[0], error)
            return
        middle = len(items) // 2
        isolate(items[:middle], attempt, culprit)
        isolate(items[middle:], attempt, culprit)
