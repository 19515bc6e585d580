# SPDX-License-Identifier: Apache-2.0
"""The broker as the contract suite sees it, with controls for what may happen to it; and the one in memory."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import uuid4

from orderflow.messaging.broker import Broker, Failure, Properties, Publication
from orderflow.messaging.clock import Clock, ManualClock
from orderflow.messaging.instrumentation import MessagingInstrumentation, PublishObserver
from tests.memory_broker.broker import MemoryBroker, QueueSpec

TOPOLOGY = {
    "work": QueueSpec(bindings=(("contract", "order.*"),)),
    "audit": QueueSpec(bindings=(("contract", "#.audited"),)),
    "small": QueueSpec(bindings=(("contract", "small"),), max_length=1),
    "single": QueueSpec(single_active=True),
    "later": QueueSpec(expires_after_seconds=0.5, expires_to="work"),
}


def message(
    body: str = "", *, exchange: str = "contract", routing_key: str = "order.created", **properties: object
) -> Publication:
    """A publication with all properties, to queue ``work`` unless said otherwise."""
    values: dict[str, object] = {
        "message_id": str(uuid4()),
        "correlation_id": "order-1",
        "type": "ORDER_CREATED",
        "timestamp": 1_767_225_600,
        "app_id": "test",
        "content_type": "application/json",
        "headers": {"traceparent": "00-1-2-01", "x-retry-count": 3},
        **properties,
    }
    return Publication(uuid4(), exchange, routing_key, Properties(**values), body.encode())  # type: ignore[arg-type]


def messages(count: int, *, first: int = 0, size_bytes: int = 0) -> list[Publication]:
    """Publications to ``work`` with numbered bodies."""
    return [message(f"{number}".rjust(size_bytes)) for number in range(first, first + count)]


class GroupObserver(PublishObserver):
    """Records the result of publications that were written together."""

    def __init__(self, reports: "BrokerReports", number: int) -> None:
        self._reports = reports
        self._number = number

    def settled(self, *, confirmed: int, failures: Mapping[Failure, int], seconds: float) -> None:
        assert seconds >= 0
        self._reports.settled_groups.append(self._number)
        self._reports.confirmed += confirmed
        for failure, count in failures.items():
            self._reports.failures[failure.value] = self._reports.failures.get(failure.value, 0) + count


class BrokerReports(MessagingInstrumentation):
    """Records what the broker reports."""

    def __init__(self) -> None:
        self.written: list[int] = []
        """Sizes of the groups that were written."""
        self.on_wire: list[int] = []
        """Unconfirmed publications after each group."""
        self.confirmed = 0
        self.failures: dict[str, int] = {}
        self.settled_groups: list[int] = []
        self.connections: list[tuple[str, bool]] = []
        self.blocks: list[bool] = []
        self.broker: Broker | None = None

    def publishing(self, publications: Sequence[Publication]) -> PublishObserver:
        assert self.broker is not None
        window = self.broker.publisher()._window  # type: ignore[attr-defined]
        self.written.append(len(publications))
        self.on_wire.append(window.unconfirmed + len(publications))
        return GroupObserver(self, len(self.written))

    def connected(self, role: str, *, connected: bool) -> None:
        self.connections.append((role, connected))

    def blocked(self, *, blocked: bool) -> None:
        self.blocks.append(blocked)


class BrokerHarness(Protocol):
    """A broker with the queues of TOPOLOGY, and controls for what may happen to it."""

    reports: BrokerReports

    @property
    def clock(self) -> Clock:
        """The broker's clock."""

    @property
    def user_id(self) -> str:
        """The user of its connections."""

    def broker(self, *, window: int = 1000) -> Broker:
        """A connected broker; closed at the end."""

    def cut(self) -> None:
        """Cut the connections and allow no new ones until ``mend``."""

    def mend(self) -> None:
        """Allow connections again."""

    def hold(self) -> None:
        """Hold back what the broker sends."""

    def release(self) -> None:
        """Send what was held back."""

    def block(self) -> None:
        """Raise a resource alarm: publishers are blocked, at the latest when they publish."""

    def unblock(self) -> None:
        """End the alarm."""

    def advance(self, seconds: float) -> None:
        """Advance the clock, if the broker has a manual one."""

    def depth(self, queue: str) -> int:
        """Messages in a queue; with the memory broker this includes unacknowledged ones."""


class MemoryHarness:
    user_id = "someone"

    def __init__(self) -> None:
        self.reports = BrokerReports()
        self._clock = ManualClock()
        self._broker: MemoryBroker | None = None

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def _one(self) -> MemoryBroker:
        assert self._broker is not None
        return self._broker

    def broker(self, *, window: int = 1000) -> Broker:
        self._broker = MemoryBroker(
            TOPOLOGY, window=window, instrumentation=self.reports, clock=self._clock, user_id=self.user_id
        )
        self.reports.broker = self._broker
        self._broker.start()
        return self._broker

    def cut(self) -> None:
        self._one.disconnect()

    def mend(self) -> None:
        self._one.connect()

    def hold(self) -> None:
        self._one.hold()

    def release(self) -> None:
        self._one.hold(holding=False)

    def block(self) -> None:
        self._one.block()

    def unblock(self) -> None:
        self._one.block(blocked=False)

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def depth(self, queue: str) -> int:
        return self._one.depth(queue)
