# SPDX-License-Identifier: Apache-2.0
"""What happens to a message that was not handled: retried after a delay, or dead-lettered.

Both are copies, published with confirms before the batch is acknowledged. A retry is a copy to exchange ``retry``; it
waits in a queue whose time to live sends it back. A dead letter is a copy to exchange ``dlx`` with its reason. Neither
uses the work queue's own dead-letter exchange: with a delivery limit a retry would then form a cycle. The broker
detects the cycle and strands the message (https://www.rabbitmq.com/docs/dlx#cycles).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Event

from orderflow.messaging.broker import Delivery, Headers, Properties, Publication, Publisher, Receipt
from orderflow.messaging.codec import RETRY_COUNT
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.messaging.publisher_check import ORIGINAL_USER_ID, Origin
from orderflow.messaging.uuid7 import uuid7

RETRY_EXCHANGE = "retry"
DELAYS_SECONDS = (1, 5, 30, 300)
DEAD_LETTER_EXCHANGE = "dlx"
DEAD_LETTER_QUEUE = "dead_letter_queue"

REASON = "x-reason"
FIRST_FAILURE = "x-first-failure-at"
FAILED_QUEUE = "x-queue"
DEAD_LETTERED_AT = "x-dead-lettered-at"
DETAIL = "x-detail"

_MAX_HEADER_BYTES = 64 * 1024
_MAX_DETAIL = 200
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds retries by number, and by the seconds since the first failure."""

    max_attempts: int
    max_age_seconds: float

    def delay(self, properties: Properties, now: datetime) -> int | None:
        """Seconds until the next attempt, or None when the retries are used up."""
        count = _retry_count(properties.headers)
        age = (now - first_failure(properties.headers, now)).total_seconds()
        if count >= self.max_attempts or age > self.max_age_seconds:
            return None
        return DELAYS_SECONDS[min(count, len(DELAYS_SECONDS) - 1)]


def retry_queue(queue: str, delay_seconds: int) -> str:
    """The queue in which the copies for a queue wait, for example ``order_updates.retry.5s``."""
    minutes, seconds = divmod(delay_seconds, 60)
    label = f"{minutes}m" if minutes and not seconds else f"{delay_seconds}s"
    return f"{queue}.retry.{label}"


def retry_copy(
    delivery: Delivery, *, origin: Origin, queue: str, reason: str, delay_seconds: int, now: datetime
) -> Publication:
    """The copy that returns to the queue after the delay: same message id, same trace, same origin."""
    headers = delivery.properties.headers
    added: Headers = {
        RETRY_COUNT: _retry_count(headers) + 1,
        REASON: reason,
        FIRST_FAILURE: first_failure(headers, now).isoformat(),
        **origin.headers(),
    }
    return copy(delivery, exchange=RETRY_EXCHANGE, routing_key=retry_queue(queue, delay_seconds), added=added)


def dead_letter(
    delivery: Delivery, *, origin: Origin, queue: str, reason: str, detail: str, now: datetime
) -> Publication:
    """The copy for exchange ``dlx``: its routing key is the queue in which it failed; headers name reason and origin.

    ``detail`` is a short sentence without personal data.
    """
    headers = delivery.properties.headers
    added: Headers = {
        REASON: reason,
        FAILED_QUEUE: queue,
        FIRST_FAILURE: first_failure(headers, now).isoformat(),
        DEAD_LETTERED_AT: now.isoformat(),
        **origin.headers(),
        DETAIL: detail[:_MAX_DETAIL],
    }
    return copy(delivery, exchange=DEAD_LETTER_EXCHANGE, routing_key=queue, added=added)


def copy(delivery: Delivery, *, exchange: str, routing_key: str, added: Headers) -> Publication:
    """A publication of the same body and properties to another exchange. The old headers are ``bounded``.

    The publisher in the delivery's headers is not kept: ``added`` names who published the event, if anyone is known to.
    """
    old = delivery.properties
    kept = {name: value for name, value in bounded(old.headers).items() if name != ORIGINAL_USER_ID}
    properties = Properties(
        message_id=old.message_id,
        correlation_id=old.correlation_id,
        type=old.type,
        timestamp=old.timestamp,
        app_id=old.app_id,
        content_type=old.content_type,
        content_encoding=old.content_encoding,
        headers={**kept, **added},
    )
    return Publication(uuid7(), exchange, routing_key, properties, delivery.body)


def bounded(headers: Headers) -> Headers:
    """The headers, or as many of them as leave space for those of a copy, smallest first.

    All properties must fit in one frame (128 KiB by default), and those of the delivery may fill it. Each attempt to
    publish a copy that does not fit would end the connection.
    """
    sizes = {name: _table_bytes(name, value) for name, value in headers.items()}
    if sum(sizes.values()) <= _MAX_HEADER_BYTES:
        return headers
    kept, room = dict[str, str | int](), _MAX_HEADER_BYTES
    for name in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[name]
        if room < 0:
            break
        kept[name] = headers[name]
    return kept


def first_failure(headers: Headers, now: datetime) -> datetime:
    """The time of the first failure: from the header of an earlier copy, else now."""
    text = headers.get(FIRST_FAILURE)
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else now
    except ValueError:
        return now
    return time if time.tzinfo else now


class CopyPublisher:
    """Publishes the copies of a batch until the broker has confirmed every one of them.

    A confirmed copy is not sent again, however often others fail, and no copy is sent again while its confirm is
    pending. Otherwise one missing retry queue would fill the dead letters with duplicates.
    """

    def __init__(self, publisher: Publisher, copies: Sequence[Publication]) -> None:
        self._publisher = publisher
        self._copies = copies
        self._receipt: Receipt | None = None

    def finish(self, *, seconds: float, given_up: Event) -> None:
        """Return when all copies are confirmed. Raises BrokerUnavailable when some are not; then call it again.

        Waits up to that many seconds, or until the event is set.
        """
        if not self._copies:
            return
        if self._receipt is None:
            self._receipt = self._publisher.publish(self._copies)
        for _ in range(max(1, round(seconds / _POLL_SECONDS))):
            if self._receipt.wait(_POLL_SECONDS) or given_up.is_set():
                break
        if not self._receipt.settled:
            raise BrokerUnavailable("copies for retry or dead letters are not confirmed in time")
        failures, self._receipt = self._receipt.failures, None
        self._copies = [copy for copy in self._copies if copy.key in failures]
        if self._copies:
            words = sorted({failure.value for failure in failures.values()})
            raise BrokerUnavailable(f"copies for retry or dead letters were {', '.join(words)}")


def _table_bytes(name: str, value: str | int) -> int:
    """Bytes of a header in its AMQP table: length and name, type, value, and the length of a string value."""
    return 1 + len(name.encode()) + 1 + (4 + len(value.encode()) if isinstance(value, str) else 8)


def _retry_count(headers: Headers) -> int:
    count = headers.get(RETRY_COUNT, 0)
    return count if isinstance(count, int) and count >= 0 else 0
