# SPDX-License-Identifier: Apache-2.0
"""Gets one message from a queue of a real broker."""

from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from local.eventually import eventually

Got = tuple[Any, pika.BasicProperties, bytes]


def get(channel: BlockingChannel, queue: str, seconds: float = 10) -> Got:
    """The next message of a queue; fails when none comes in time."""
    found: list[Got] = []

    def arrived() -> bool:
        method, properties, body = channel.basic_get(queue)
        if method is not None and properties is not None and body is not None:
            found.append((method, properties, body))
        return bool(found)

    eventually(arrived, seconds, what=f"a message in {queue}", pause=0.02)
    return found[0]
