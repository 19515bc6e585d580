# SPDX-License-Identifier: Apache-2.0
"""The way of a batch's copies to the retry queues and the dead letters, before the batch is acknowledged."""

from collections.abc import Sequence
from threading import Event

from orderflow.messaging.broker import Publication, Publisher, Receipt
from orderflow.messaging.errors import BrokerUnavailable

_LOOK_SECONDS = 0.1


class CopyPublisher:
    """Publishes copies until the broker has confirmed every one of them.

    A copy that is confirmed is not sent again, however often its neighbours fail; and nothing is sent again while
    its first try is still on the way. Otherwise one missing retry queue would fill the dead letters with duplicates.
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
        for _ in range(max(1, round(seconds / _LOOK_SECONDS))):
            if self._receipt.wait(_LOOK_SECONDS) or given_up.is_set():
                break
        if not self._receipt.settled:
            raise BrokerUnavailable("copies for retry or dead letters are not confirmed in time")
        failures, self._receipt = self._receipt.failures, None
        self._copies = [copy for copy in self._copies if copy.key in failures]
        if self._copies:
            words = sorted({failure.value for failure in failures.values()})
            raise BrokerUnavailable(f"copies for retry or dead letters were {', '.join(words)}")
