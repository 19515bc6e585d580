# SPDX-License-Identifier: Apache-2.0
"""Exports spans in the background, with a bounded queue; counts exported and dropped spans."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from orderflow.telemetry.metrics import catalogue
from orderflow.telemetry.metrics.registry import MetricRegistry
from orderflow.telemetry.tracing.spans import Span

log = logging.getLogger(__name__)

Send = Callable[[Sequence[Span]], bool]
"""Sends spans, and returns whether they have arrived. It may block, and it has retried before it returns False."""


class SpanQueue:
    """Spans that wait for a background thread. When the queue is full, new spans are dropped and counted."""

    def __init__(
        self,
        send: Send,
        *,
        max_queue_size: int,
        max_batch_size: int,
        delay_seconds: float,
        registry: MetricRegistry | None = None,
    ) -> None:
        self._send = send
        self._capacity = max_queue_size
        self._batch_size = min(max_batch_size, max_queue_size)
        self._delay = delay_seconds
        self._waiting: deque[Span] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._exported = registry.counter(catalogue.SPANS_EXPORTED) if registry else None
        self._failed = registry.counter(catalogue.SPANS_DROPPED, "export_failed") if registry else None
        self._dropped = registry.counter(catalogue.SPANS_DROPPED, "queue_full") if registry else None
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def add(self, spans: Sequence[Span]) -> None:
        """Queue spans that have ended; never blocks. Several threads may call it."""
        room = max(0, self._capacity - len(self._waiting))
        if len(spans) > room:
            if self._dropped is not None:
                self._dropped.inc(len(spans) - room)
            spans = spans[:room]
        self._waiting.extend(spans)
        if len(self._waiting) >= self._batch_size:
            self._wake.set()

    def close(self, *, timeout_seconds: float) -> None:
        """Export the queue, for at most ``timeout_seconds``: an unavailable collector must not delay the exit."""
        self._stopping = True
        self._wake.set()
        wait_for_flush(self._thread, timeout_seconds=timeout_seconds)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._export()
        self._export()

    def _export(self) -> None:
        """Export a batch, and more while whole batches wait; at the end everything."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            try:
                arrived = self._send(batch)
            except Exception:
                log.exception("spans.export_failed", extra={"spans": len(batch)})
                arrived = False
            counter = self._exported if arrived else self._failed
            if counter is not None:
                counter.inc(len(batch))
            if len(self._waiting) < self._batch_size and not self._stopping:
                return


def wait_for_flush(thread: threading.Thread, *, timeout_seconds: float) -> None:
    """Wait until a thread has exported everything; after ``timeout_seconds`` only a warning is logged."""
    thread.join(timeout_seconds)
    if thread.is_alive():
        log.warning("spans.not_flushed", extra={"timeout_seconds": timeout_seconds})
