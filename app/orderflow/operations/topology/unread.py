# SPDX-License-Identifier: Apache-2.0
"""Finds queues to which events are routed and which nobody reads.

Such a queue fills until it refuses events (``broker_topology.MAX_LENGTH``). It belongs to a process that does not run,
or is left over from an earlier version.
"""

import logging
from collections.abc import Iterable

import msgspec

from orderflow.events import EXCHANGE
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import Clock
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.messaging.periodic import Periodic
from orderflow.operations.management_api import Management, ManagementRefused
from orderflow.operations.topology.diff import Difference
from orderflow.rabbitmq_definitions import Binding

log = logging.getLogger(__name__)


class Readers(msgspec.Struct, frozen=True, kw_only=True):
    """A queue and the number of its consumers, which the broker counts every five seconds."""

    name: str
    consumers: int | None = None
    """None before the first count."""


def unread(management: Management, vhost: str) -> list[Difference]:
    """Every queue that gets events and has no consumer; raises BrokerUnavailable or ManagementRefused."""
    bindings = msgspec.json.decode(management.get("bindings", vhost), type=list[Binding])
    queues = msgspec.json.decode(management.get("queues", vhost), type=list[Readers])
    return without_consumers(bindings, queues)


def without_consumers(bindings: Iterable[Binding], queues: Iterable[Readers]) -> list[Difference]:
    """The queues that events reach over these bindings, directly or over other exchanges, and that have no consumer."""
    unseen, exchanges, reached = list(bindings), {EXCHANGE}, set[str]()
    while leading := [binding for binding in unseen if binding.source in exchanges]:
        unseen = [binding for binding in unseen if binding.source not in exchanges]
        exchanges |= {binding.destination for binding in leading if binding.destination_type == "exchange"}
        reached |= {binding.destination for binding in leading if binding.destination_type == "queue"}
    return [
        Difference(verdict="unread", kind="queue", key=(queue.name,), detail="it gets events and has no consumer")
        for queue in sorted(queues, key=lambda queue: queue.name)
        if queue.name in reached and not queue.consumers
    ]


class UnreadQueues:
    """Looks for unread queues periodically, and reports what two consecutive looks found. For one thread."""

    def __init__(self, management: Management, vhost: str, *, instrumentation: Instrumentation, clock: Clock) -> None:
        self._management = management
        self._vhost = vhost
        self._instrumentation = instrumentation
        self._clock = clock
        self._earlier: set[Difference] = set()

    def run_once(self) -> None:
        """Look once. Raises BrokerUnavailable, also when the broker refuses; then the number is reported as unknown."""
        try:
            found = set(unread(self._management, self._vhost))
        except BrokerUnavailable:
            self._instrumentation.queues_unread(None)
            raise
        except ManagementRefused as refused:  # a wrong password must not end the process, whose main task is another
            self._instrumentation.queues_unread(None)
            raise BrokerUnavailable(str(refused)) from refused
        sure, self._earlier = found & self._earlier, found  # a process that restarts has no consumer for a moment
        self._instrumentation.queues_unread(len(sure))
        if sure:
            log.error("queues.unread", extra={"queues": sorted(difference.key[0] for difference in sure)})

    def loop(self, interval_seconds: float) -> Periodic:
        """The loop for a process."""
        return Periodic("unread queues", interval_seconds, self.run_once, clock=self._clock)
