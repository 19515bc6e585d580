# SPDX-License-Identifier: Apache-2.0
"""Steps of the contract tests."""

from collections.abc import Sequence

from orderflow.messaging.broker import Batch, Broker, Consumer, Delivery, Publication, Receipt

SECONDS = 15.0


def sent(broker: Broker, publications: Sequence[Publication]) -> Receipt:
    receipt = broker.publisher().publish(publications)
    assert receipt.wait(SECONDS)
    return receipt


def take(consumer: Consumer, count: int = 1, *, limit: int = 250, limit_bytes: int = 10**6) -> list[Batch]:
    """Batches with this many messages in total; each waits until it is full, so a slow broker changes nothing."""
    batches: list[Batch] = []
    missing = count
    while missing > 0:
        batch = consumer.receive(
            limit=min(limit, missing), limit_bytes=limit_bytes, linger_seconds=SECONDS, timeout_seconds=SECONDS
        )
        assert batch is not None, f"{missing} of {count} messages did not come"
        batches.append(batch)
        missing -= len(batch.deliveries)
    return batches


def nothing_comes(consumer: Consumer) -> bool:
    """Whether nothing comes for a while: no event follows a message that is not sent, so only time will do.

    A slow machine makes this prove less. It never makes a sound broker fail.
    """
    return consumer.receive(limit=1, limit_bytes=1, linger_seconds=0, timeout_seconds=0.2) is None


def deliveries(batches: Sequence[Batch]) -> list[Delivery]:
    return [delivery for batch in batches for delivery in batch.deliveries]


def bodies(batches: Sequence[Batch]) -> list[str]:
    return [delivery.body.decode().strip() for delivery in deliveries(batches)]


def numbers(count: int, first: int = 0) -> list[str]:
    return [str(number) for number in range(first, first + count)]
