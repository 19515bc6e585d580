# SPDX-License-Identifier: Apache-2.0
"""``topology apply --prune`` deletes what is extra on a real broker, but never messages."""

from collections.abc import Callable
from threading import Event

import msgspec
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from local.eventually import eventually
from orderflow.broker_topology import definitions
from orderflow.events import OrderCancelled
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.service import Queue, Service
from orderflow.operations.management_api import Management
from orderflow.operations.topology.apply import apply, diff, exported
from orderflow.rabbitmq_definitions import Definitions
from orderflow.services import SERVICES
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.broker_get import get

pytestmark = pytest.mark.integration


def found(management: Management, wanted: Definitions) -> set[str]:
    return {str(difference) for difference in diff(management, wanted)}


class ClockOfEvents(SystemClock):
    """Calls the next action before each wait."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self._actions = iter(actions)

    def wait(self, event: Event, seconds: float) -> bool:
        next(self._actions)()
        return super().wait(event, seconds)


def test_pruning_deletes_what_is_extra_but_never_messages(shop: Installation, channels: Channels) -> None:
    management, channel = Management(shop.management_url), channels.open(shop.admin_url)
    for name in ("empty", "full", "late"):
        management.put("queues", shop.vhost, name, body={"durable": True, "arguments": {"x-queue-type": "quorum"}})
        policy = {"pattern": f"^{name}$", "definition": {"max-length": 10}, "apply-to": "queues"}
        management.put("policies", shop.vhost, name, body=policy)
    for exchange in ("old", "late"):
        management.put("exchanges", shop.vhost, exchange, body={"type": "topic", "durable": True})
    for exchange, queue in (("old", "empty"), ("old", "order_updates"), ("late", "late")):
        body = msgspec.json.encode({"routing_key": "key", "arguments": {}})
        management.post("bindings", shop.vhost, "e", exchange, "q", queue, body=body)
    channel.basic_publish("", "full", b"precious")

    assert apply(management, shop.document).complete
    assert "extra queue empty" in found(management, shop.document)
    clock = ClockOfEvents(lambda: None, lambda: channel.basic_publish("", "late", b"in the last moment"))
    pruned = apply(management, shop.document, prune=True, clock=clock)
    assert pruned.complete
    assert {str(difference) for difference in pruned.left} == {
        "extra queue full",
        "extra policy full",
        "extra queue late",
        "extra policy late",
        "extra binding late queue late key",
        "extra exchange late",
    }


def test_a_prune_that_is_interrupted_leaves_every_queue_bound(shop: Installation) -> None:
    management = Management(shop.management_url)
    management.put("queues", shop.vhost, "left_over", body={"durable": True, "arguments": {"x-queue-type": "quorum"}})
    body = msgspec.json.encode({"routing_key": "order.cancelled", "arguments": {}})
    management.post("bindings", shop.vhost, "e", "order_events", "q", "left_over", body=body)
    bound = found(management, shop.document)
    seen: list[set[str]] = []

    def interrupt() -> None:
        seen.append(found(management, shop.document))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(management, shop.document, prune=True, clock=ClockOfEvents(lambda: None, interrupt))
    assert seen == [{"extra queue left_over"}], "it was interrupted while the queue was not bound"
    assert found(management, shop.document) == bound


OLD = Service(
    name="old",
    queues=(
        Queue(name="old_updates", events=(OrderCancelled,)),
        Queue(name="spread_updates", events=(OrderCancelled,), partitions=2),
    ),
    publishes=(),
)


def parts_of(document: Definitions, queue: str) -> set[str]:
    """The queue, its partitions and retry queues, their policies and bindings, as far as the document has them."""
    listed = [("queue", part.name) for part in document.queues] + [("policy", part.name) for part in document.policies]
    bound = [("binding", f"{part.routing_key} {part.destination}") for part in document.bindings]
    return {f"{kind} {name}" for kind, name in (*listed, *bound) if queue in name}


def consumed(channel: BlockingChannel, *queues: str, count: int) -> set[bytes]:
    """So many messages of queues with a single active consumer, which do not give one at a time."""
    bodies: list[bytes] = []
    for queue in queues:
        channel.basic_consume(queue, lambda _channel, _method, _properties, body: bodies.append(body))

    def come() -> bool:
        channel.connection.process_data_events(0.1)
        return len(bodies) == count

    eventually(come, 30, what=f"{count} messages")
    return set(bodies)


def with_time_to_live(document: Definitions, queue: str, *, seconds: int) -> Definitions:
    """The document with another delay of a retry queue: longer than the prune, shorter than the test can wait."""
    policies = [
        msgspec.structs.replace(policy, definition={**policy.definition, "message-ttl": seconds * 1000})
        if policy.name == queue
        else policy
        for policy in document.policies
    ]
    return msgspec.structs.replace(document, policies=policies)


def test_a_queue_is_kept_with_everything_while_a_copy_waits_in_one_of_its_retry_queues(
    shop: Installation, channels: Channels
) -> None:
    management = Management(shop.management_url)
    before = definitions([*SERVICES, OLD], vhost=shop.vhost)
    for name in ("old_updates", "spread_updates"):
        before = with_time_to_live(before, f"{name}.retry.5m", seconds=20)
    apply(management, msgspec.structs.replace(before, users=[], permissions=[], topic_permissions=[]))
    parts = [parts_of(exported(management), name) for name in ("old_updates", "spread_updates")]
    assert [len(found) for found in parts] == [5 + 5 + 6, 6 + 6 + 9]
    channel = channels.open(shop.admin_url)
    for name in ("old_updates", "spread_updates"):
        channel.basic_publish("retry", f"{name}.retry.5m", b"a lost cancel is a charge without a refund")

    pruned = apply(management, shop.document, prune=True)
    assert pruned.complete
    assert [parts_of(exported(management), name) for name in ("old_updates", "spread_updates")] == parts

    channel.basic_publish("order_events", "order.cancelled", b"it is still bound")
    both = {b"a lost cancel is a charge without a refund", b"it is still bound"}
    assert {get(channel, "old_updates", seconds=30)[2] for _ in range(2)} == both
    assert consumed(channel, "spread_updates.1of2", "spread_updates.2of2", count=2) == both

    channel.basic_ack(0, multiple=True)
    channel.connection.close()
    apply(management, shop.document, prune=True)
    assert found(management, shop.document) == set()
