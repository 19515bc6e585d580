# SPDX-License-Identifier: Apache-2.0
"""Tells every moment of the core to the recorder and to the tracer. A fault in either is logged and stops nothing."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec

from orderflow.messaging.broker import Delivery, Failure, Publication
from orderflow.messaging.hooks import BatchSpan, CallSpan, Hooks, Outcomes
from orderflow.telemetry.recorder import Recorder
from orderflow.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")


def _harmless(action: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """The same action; what it raises is logged."""

    @wraps(action)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            action(*args, **kwargs)
        except Exception:
            log.exception("telemetry.failed", extra={"hook": action.__name__})

    return guarded


class WatchedBatch(BatchSpan):
    """One batch, counted and traced."""

    __slots__ = ("_counted", "_traced")

    def __init__(self, counted: BatchSpan, traced: BatchSpan) -> None:
        self._counted = counted
        self._traced = traced

    def headers(self, position: int) -> Mapping[str, str]:
        """What the tracer says."""
        return self._traced.headers(position)

    @_harmless
    def handled(self, outcomes: Outcomes) -> None:
        """Tell both."""
        self._counted.handled(outcomes)
        self._traced.handled(outcomes)

    @_harmless
    def failed(self, error: BaseException) -> None:
        """Tell both."""
        self._counted.failed(error)
        self._traced.failed(error)


class Watching(Hooks):
    """The hooks of a process: metrics and traces."""

    def __init__(self, recorder: Recorder, tracing: Tracing) -> None:
        self._recorder = recorder
        self._tracing = tracing

    def calling(self, operation: str, trace: Mapping[str, str]) -> CallSpan:
        """Ask the tracer; calls are counted as moments of the shop."""
        try:
            return self._tracing.calling(operation, trace)
        except Exception:
            log.exception("telemetry.failed", extra={"hook": "calling"})
            return CallSpan()

    def batch_received(self, queue: str, deliveries: Sequence[Delivery]) -> BatchSpan:
        """Ask both for their view of the batch."""
        try:
            traced = self._tracing.batch_received(queue, deliveries)
            # Last: a batch that is counted as open is open until somebody says that it was handled.
            return WatchedBatch(self._recorder.batch_received(queue, deliveries), traced)
        except Exception:
            log.exception("telemetry.failed", extra={"hook": "batch_received"})
            return BatchSpan()

    @_harmless
    def consumer_paused(self, queue: str, error: BaseException, seconds: float) -> None:
        """Tell the recorder."""
        self._recorder.consumer_paused(queue, error, seconds)

    def publishing(self, publications: Sequence[Publication]) -> object:
        """Tell both; the token is the tracer's."""
        try:
            self._recorder.publishing(publications)
            return self._tracing.publishing(publications)
        except Exception:
            log.exception("telemetry.failed", extra={"hook": "publishing"})
            return None

    @_harmless
    def settled(self, token: object, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        """Tell both."""
        self._recorder.settled(token, confirmed=confirmed, failures=failures, seconds=seconds)
        self._tracing.settled(token, confirmed=confirmed, failures=failures, seconds=seconds)

    @_harmless
    def connected(self, role: str, *, connected: bool) -> None:
        """Tell the recorder."""
        self._recorder.connected(role, connected=connected)

    @_harmless
    def blocked(self, *, blocked: bool) -> None:
        """Tell the recorder."""
        self._recorder.blocked(blocked=blocked)

    @_harmless
    def window(self, *, unconfirmed: int, waiting: int) -> None:
        """Tell the recorder."""
        self._recorder.window(unconfirmed=unconfirmed, waiting=waiting)

    @_harmless
    def outbox_measured(self, *, rows: int, oldest_seconds: float) -> None:
        """Tell the recorder."""
        self._recorder.outbox_measured(rows=rows, oldest_seconds=oldest_seconds)

    @_harmless
    def relayed(self, count: int) -> None:
        """Tell the recorder."""
        self._recorder.relayed(count)
