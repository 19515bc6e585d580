# SPDX-License-Identifier: Apache-2.0
"""When a message is tried again, and the copy that travels through a retry queue.

A retry is a confirmed publish of a copy to the exchange ``retry``, then an ack. The copy waits in a queue whose
time to live sends it back. It never goes through the work queue's own dead-letter exchange: together with a
delivery limit that is a cycle which the broker detects, and then it strands the message.
https://www.rabbitmq.com/docs/dlx#cycles
"""

from dataclasses import dataclass
from datetime import datetime

from orderflow.messaging.broker import Delivery, Headers, Properties, Publication
from orderflow.messaging.codec import RETRY_COUNT
from orderflow.messaging.consume.copies import ORIGINAL_ROUTING_KEY, copy, original_routing_key

RETRY_EXCHANGE = "retry"
DELAYS_SECONDS = (1, 5, 30, 300)
FIRST_FAILURE = "x-first-failure-at"
REASON = "x-reason"


def retry_queue(queue: str, delay_seconds: int) -> str:
    """The name of the queue in which copies for a queue wait, for example ``order_updates.retry.5s``."""
    minutes, seconds = divmod(delay_seconds, 60)
    label = f"{minutes}m" if minutes and not seconds else f"{delay_seconds}s"
    return f"{queue}.retry.{label}"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds retries by number and by the time since the first failure, in seconds."""

    max_attempts: int = 8
    max_age_seconds: float = 3600

    def delay(self, properties: Properties, now: datetime) -> int | None:
        """Seconds to wait before the next attempt, or None when the message has had its chances."""
        count = _count(properties.headers)
        age = (now - first_failure(properties.headers, now)).total_seconds()
        if count >= self.max_attempts or age > self.max_age_seconds:
            return None
        return DELAYS_SECONDS[min(count, len(DELAYS_SECONDS) - 1)]


def retry_copy(delivery: Delivery, *, queue: str, reason: str, delay_seconds: int, now: datetime) -> Publication:
    """The copy of a delivery that comes back to its queue after the delay: same message id, same trace."""
    headers = delivery.properties.headers
    added: Headers = {
        RETRY_COUNT: _count(headers) + 1,
        REASON: reason,
        FIRST_FAILURE: first_failure(headers, now).isoformat(),
        ORIGINAL_ROUTING_KEY: original_routing_key(delivery),
    }
    return copy(delivery, exchange=RETRY_EXCHANGE, routing_key=retry_queue(queue, delay_seconds), added=added)


def first_failure(headers: Headers, now: datetime) -> datetime:
    """When the message failed for the first time: now, unless a header tells."""
    text = headers.get(FIRST_FAILURE)
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else now
    except ValueError:
        return now
    return moment if moment.tzinfo else now


def _count(headers: Headers) -> int:
    count = headers.get(RETRY_COUNT, 0)
    return count if isinstance(count, int) and count >= 0 else 0
