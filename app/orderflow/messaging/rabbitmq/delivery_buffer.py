# SPDX-License-Identifier: Apache-2.0
"""Passes the deliveries of one queue from the I/O thread, which appends them, to the worker, which takes batches."""

import threading
import time
from collections import deque

from orderflow.messaging.broker import Batch, Delivery


class DeliveryBuffer:
    """A buffer that wakes the worker for the first delivery and for a full batch, never for each one.

    An epoch is the lifetime of one channel. A delivery of an earlier epoch can no longer be acknowledged, so it is
    dropped: the broker delivers the message again.
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.epoch = 0
        self._deliveries: deque[Delivery] = deque()
        self._some = threading.Event()
        self._full = threading.Event()
        self._wanted = 1
        self._stopped = False
        self._handed_tag = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._deliveries)

    def append(self, delivery: Delivery) -> None:
        """Add a delivery of the current epoch; called by the I/O thread."""
        if self._stopped:
            return
        deliveries = self._deliveries
        deliveries.append(delivery)
        if not self._some.is_set():
            self._some.set()
        if len(deliveries) >= self._wanted and not self._full.is_set():
            self._full.set()

    def renew(self) -> int:
        """Begin a new epoch and drop the remaining deliveries of the old one; the number of the new epoch."""
        with self._lock:
            self.epoch += 1
            self._deliveries.clear()
            self._handed_tag = 0
            return self.epoch

    def stop(self) -> int:
        """Return no further batch and drop the remaining deliveries; the tag of the last delivery taken, or 0."""
        with self._lock:
            self._stopped = True
            self._deliveries.clear()
            self.wake()
            return self._handed_tag

    def wake(self) -> None:
        """Let a waiting worker check again, for example because nothing more will arrive."""
        self._some.set()
        self._full.set()

    def take(
        self,
        *,
        limit: int,
        limit_bytes: int,
        linger_seconds: float,
        timeout_seconds: float,
        collect_seconds: float = 0,
    ) -> Batch | None:
        """See ``broker.Consumer.receive``."""
        began = time.monotonic()
        deadline, collected = began + timeout_seconds, began + collect_seconds
        while True:
            epoch = self.epoch
            if not self._wait_for_some(deadline - time.monotonic()):
                return None
            self._linger(limit, max(linger_seconds, collected - time.monotonic()))
            with self._lock:
                taken = self._pop(limit, limit_bytes)
                if taken:
                    self._handed_tag = taken[-1].tag
                    return Batch(self.queue, self.epoch, taken)
                if epoch == self.epoch:
                    return None

    def _wait_for_some(self, seconds: float) -> bool:
        if not self._deliveries:
            self._some.clear()
        return bool(self._deliveries) or self._some.wait(max(0.0, seconds))

    def _linger(self, limit: int, seconds: float) -> None:
        if len(self._deliveries) < limit and seconds > 0:
            self._wanted = limit
            self._full.clear()
            if len(self._deliveries) < limit:
                self._full.wait(seconds)

    def _pop(self, limit: int, limit_bytes: int) -> list[Delivery]:
        taken: list[Delivery] = []
        size = 0
        while self._deliveries and len(taken) < limit and size < limit_bytes:
            taken.append(self._deliveries.popleft())
            size += len(taken[-1].body)
        return taken
