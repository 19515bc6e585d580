# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest

from local.eventually import deadline, eventually


def test_a_condition_that_stays_false_is_named() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: the queue is empty"):
        eventually(lambda: False, 0.01, what="the queue is empty")


def test_what_did_not_happen_before_a_deadline_is_named() -> None:
    async def main() -> None:
        async with deadline(0.01, what="a response"):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: a response"):
        asyncio.run(main())


def test_a_timeout_of_the_block_itself_is_not_the_deadline() -> None:
    async def main() -> None:
        async with deadline(60, what="a response"):
            raise TimeoutError("of the connection")

    with pytest.raises(TimeoutError, match=r"^of the connection$"):
        asyncio.run(main())
