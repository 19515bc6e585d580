# SPDX-License-Identifier: Apache-2.0
"""A publisher and a consumer whose results a test sets, and deliveries for them."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from orderflow.events import OrderCancelled
from orderflow.messaging.broker import Batch, Delivery, Failure, Properties, Publication, Receipt
from orderflow.messaging.event import Event, event_type
from orderflow.messaging.event import encode as encode_event
from tests.builders import NOW, an_event

Fate = Callable[[Publication], Failure | None]


def deliver(
    event: Event | None = None,
    *,
    message_id: UUID | str | None = None,
    body: bytes | None = None,
    tag: int = 1,
    exchange: str = "order_events",
    routing_key: str | None = None,
    user_id: str | None = None,
    **properties: object,
) -> Delivery:
    """A delivery of an event with the properties that its publisher sets, unless they are given."""
    event = event or an_event(OrderCancelled)
    values: dict[str, object] = {
        "message_id": str(message_id or uuid4()),
        "correlation_id": str(getattr(event, "order_id", "")),
        "type": event_type(type(event)),
        "timestamp": int(NOW.timestamp()),
        "app_id": "test",
        "content_type": "application/json",
        **properties,
    }
    return Delivery(
        tag=tag,
        exchange=exchange,
        routing_key=event.routing_key if routing_key is None else routing_key,
        redelivered=False,
        properties=Properties(**values),  # type: ignore[arg-type]
        body=encode_event(event) if body is None else body,
        received_at=0.0,
        user_id=user_id,
    )


class ScriptedPublisher:
    """Records publications and settles them as ``fate`` says; while ``holding`` it settles nothing."""

    def __init__(self, fate: Fate = lambda publication: None) -> None:
        self.fate = fate
        self.holding = False
        self.room = 1000
        self.published: list[Publication] = []
        self._held: list[tuple[Receipt, Sequence[Publication]]] = []
        self._lock = threading.Lock()

    def publish(self, publications: Sequence[Publication]) -> Receipt:
        receipt = Receipt([publication.key for publication in publications])
        with self._lock:
            self.published += publications
            if self.holding:
                self._held.append((receipt, publications))
                return receipt
        self._settle(receipt, publications)
        return receipt

    def release(self) -> None:
        """Settle what was held, and stop holding."""
        with self._lock:
            self.holding = False
            held, self._held = self._held, []
        for receipt, publications in held:
            self._settle(receipt, publications)

    def to(self, exchange: str) -> list[Publication]:
        """What was published to one exchange."""
        return [publication for publication in self.published if publication.exchange == exchange]

    def _settle(self, receipt: Receipt, publications: Sequence[Publication]) -> None:
        for publication in publications:
            failure = self.fate(publication)
            if failure is None:
                receipt.settle(1)
            else:
                receipt.fail(publication.key, failure)


class ScriptedConsumer:
    """Returns the given deliveries once it is resumed, and records which were acknowledged.

    When it is suspended, what was returned and not acknowledged is delivered again later.
    """

    def __init__(self, queue: str, deliveries: Sequence[Delivery] = ()) -> None:
        self.queue = queue
        self.acknowledged: list[Delivery] = []
        self.cancelled = threading.Event()
        self.subscribed = False
        self.given_back = 0
        """How many deliveries were given back."""
        self._waiting = deque(deliveries)
        self._held: list[Delivery] = []
        self._epoch = 1

    def put(self, *deliveries: Delivery) -> None:
        self._waiting.extend(deliveries)

    def receive(
        self,
        *,
        limit: int,
        limit_bytes: int,
        linger_seconds: float,
        timeout_seconds: float,
        collect_seconds: float = 0,
    ) -> Batch | None:
        deliveries: list[Delivery] = []
        while self.subscribed and self._waiting and len(deliveries) < limit:
            deliveries.append(self._waiting.popleft())
        if deliveries:
            self._held += deliveries
            return Batch(self.queue, self._epoch, deliveries)
        self.cancelled.wait(min(timeout_seconds, 0.01))
        return None

    def ack(self, batch: Batch) -> None:
        if batch.epoch == self._epoch:
            self.acknowledged += batch.deliveries
            del self._held[: len(batch.deliveries)]

    def suspend(self) -> None:
        self.subscribed = False
        self._epoch += 1
        self.given_back += len(self._held)
        self._waiting.extendleft(reversed(self._held))
        self._held = []

    def resume(self) -> None:
        self.subscribed = True

    def cancel(self) -> None:
        self.cancelled.set()

    @property
    def drained(self) -> bool:
        return self.cancelled.is_set() and not (self.subscribed and self._waiting)
