# SPDX-License-Identifier: Apache-2.0
"""The copy of a message that cannot be handled, as it is parked for a human to look at."""

from datetime import datetime

from orderflow.messaging.broker import Delivery, Headers, Publication
from orderflow.messaging.consume.copies import ORIGINAL_ROUTING_KEY, copy, original_routing_key
from orderflow.messaging.consume.retry import FIRST_FAILURE, REASON, first_failure

DEAD_LETTER_EXCHANGE = "dlx"
DEAD_LETTER_QUEUE = "dead_letter_queue"
FAILED_QUEUE = "x-queue"
DEAD_LETTERED_AT = "x-dead-lettered-at"
DETAIL = "x-detail"


def dead_letter(delivery: Delivery, *, queue: str, reason: str, detail: str, now: datetime) -> Publication:
    """The copy for exchange ``dlx``, routed by the queue in which it failed, with everything it had and the reason.

    ``detail`` says more in a short sentence and must not contain personal data.
    """
    headers = delivery.properties.headers
    added: Headers = {
        REASON: reason,
        FAILED_QUEUE: queue,
        FIRST_FAILURE: first_failure(headers, now).isoformat(),
        DEAD_LETTERED_AT: now.isoformat(),
        ORIGINAL_ROUTING_KEY: original_routing_key(delivery),
        DETAIL: detail[:200],
    }
    return copy(delivery, exchange=DEAD_LETTER_EXCHANGE, routing_key=queue, added=added)
