# SPDX-License-Identifier: Apache-2.0
"""The document on a real broker: applied twice, compared, and applied again after changes."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest

from local.eventually import eventually
from orderflow.broker_topology import definitions
from orderflow.events import OrderCancelled
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.errors import BrokerUnavailable
from orderflow.messaging.service import Queue, Service
from orderflow.operations.management_api import Management
from orderflow.operations.topology import command
from orderflow.operations.topology.command import apply, diff
from orderflow.operations.topology.unread import UnreadQueues, unread
from orderflow.rabbitmq_definitions import Definitions, QueueDefinition, Value
from orderflow.services import SERVICES
from orderflow.settings import Settings
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.broker_get import get

pytestmark = pytest.mark.integration


def found(management: Management, wanted: Definitions) -> set[str]:
    return {str(difference) for difference in diff(management, wanted)}


def test_a_fresh_vhost_gets_everything_and_the_second_time_nothing_changes(
    management_url: str, wanted: Definitions
) -> None:
    management = Management(management_url)
    first = apply(management, wanted)
    assert first.complete and not first.left
    assert {difference.kind for difference in first.done} == {
        "user",
        "permission",
        "topic permission",
        "policy",
        "exchange",
        "queue",
        "binding",
    }
    hashes = management.get("users", wanted.users[0].name)
    second = apply(management, wanted)
    assert not second.done and not second.left
    assert management.get("users", wanted.users[0].name) == hashes


def test_the_vhost_is_created_when_it_is_not_there(management_url: str, wanted: Definitions) -> None:
    management = Management(management_url)
    management.delete("vhosts", wanted.vhosts[0].name)
    assert apply(management, wanted).complete


def plant(management: Management, shop: Installation) -> None:
    """Create differences of every kind."""
    name, prefix = shop.vhost, shop.document.users[0].name.removesuffix("orders")
    management.delete("queues", name, "order_updates.retry.5s")
    management.delete("policies", name, "order_updates")
    management.put("queues", name, "left_over", body={"durable": True, "arguments": {"x-queue-type": "quorum"}})
    management.delete("queues", name, "dead_letter_queue")
    management.put(
        "queues", name, "dead_letter_queue", body={"durable": True, "arguments": {"x-queue-type": "classic"}}
    )
    lax = {"configure": ".*", "write": ".*", "read": ".*"}
    management.put("permissions", name, f"{prefix}payments", body=lax)
    management.put("users", f"{prefix}monitor", body={"password": "another", "tags": "monitoring"})
    key = {"routing_key": "stock.changed", "arguments": {}}
    management.post("bindings", name, "e", "order_events", "q", "payment_requests", body=msgspec.json.encode(key))


def test_planted_differences_are_found_and_put_right_as_far_as_an_import_can(shop: Installation) -> None:
    management = Management(shop.management_url)
    prefix = shop.document.users[0].name.removesuffix("orders")
    plant(management, shop)
    planted = found(management, shop.document)
    assert planted >= {
        "missing queue order_updates.retry.5s",
        "missing policy order_updates",
        "missing binding retry queue order_updates.retry.5s order_updates.retry.5s",
        "missing binding dlx queue dead_letter_queue #",
        "extra queue left_over",
        "extra binding order_events queue payment_requests stock.changed",
        'changed queue dead_letter_queue: arguments is {"x-queue-type":"classic"}, should be {"x-queue-type":"quorum"}',
        f"changed user {prefix}monitor: the password differs",
    }
    assert any(line.startswith(f'changed permission {prefix}payments: configure is ".*"') for line in planted)

    applied = apply(management, shop.document)
    assert not applied.complete
    assert {str(difference).split(":")[0] for difference in applied.left} == {
        "changed queue dead_letter_queue",
        "extra queue left_over",
        "extra binding order_events queue payment_requests stock.changed",
    }
    assert shop.api("monitor").get("overview")


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


OLD = Service(name="old", queues=(Queue(name="old_updates", events=(OrderCancelled,)),), publishes=())


def parts_of(document: Definitions, queue: str) -> set[str]:
    """The queue, its retry queues, their policies and their bindings, as far as the document has them."""
    listed = [("queue", part.name) for part in document.queues] + [("policy", part.name) for part in document.policies]
    bound = [("binding", f"{part.routing_key} {part.destination}") for part in document.bindings]
    return {f"{kind} {name}" for kind, name in (*listed, *bound) if queue in name}


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
    before = with_time_to_live(definitions([*SERVICES, OLD], vhost=shop.vhost), "old_updates.retry.5m", seconds=20)
    apply(management, msgspec.structs.replace(before, users=[], permissions=[], topic_permissions=[]))
    parts = parts_of(msgspec.json.decode(management.get("definitions"), type=Definitions), "old_updates")
    assert len(parts) == 5 + 5 + 6
    channel = channels.open(shop.admin_url)
    channel.basic_publish("retry", "old_updates.retry.5m", b"a lost cancel is a charge without a refund")

    pruned = apply(management, shop.document, prune=True)
    assert pruned.complete
    assert parts_of(msgspec.json.decode(management.get("definitions"), type=Definitions), "old_updates") == parts

    channel.basic_publish("order_events", "order.cancelled", b"it is still bound")
    came = {get(channel, "old_updates", seconds=30)[2] for _ in range(2)}
    assert came == {b"a lost cancel is a charge without a refund", b"it is still bound"}

    channel.basic_ack(0, multiple=True)
    channel.connection.close()
    apply(management, shop.document, prune=True)
    assert found(management, shop.document) == set()


def test_without_passwords_everything_but_the_users_is_applied(management_url: str, wanted: Definitions) -> None:
    unknown = [msgspec.structs.replace(user, password=None) for user in wanted.users]
    applied = apply(Management(management_url), msgspec.structs.replace(wanted, users=unknown))
    assert not applied.complete
    assert {difference.kind for difference in applied.left} == {"user", "permission", "topic permission"}


def read(shop: Installation, channels: Channels, *, but: str = "") -> None:
    """Consume every queue that gets events, as the running services do; returns when the broker has counted them."""
    queues = {found.destination for found in shop.document.bindings if found.source == "order_events"} - {but}
    channel = channels.open(shop.admin_url)
    for queue in queues:
        channel.basic_consume(queue, lambda *_: None)
    management, expected = Management(shop.management_url), [but] if but else []
    eventually(lambda: [left.key[0] for left in unread(management, shop.vhost)] == expected, 30, pause=0.2)


def test_a_bound_queue_that_nobody_reads_is_found_by_diff_and_by_the_monitor(
    shop: Installation, channels: Channels
) -> None:
    management = Management(shop.management_url)
    names = {left.key[0] for left in unread(management, shop.vhost)}
    assert "payment_requests" in names
    assert not names & {"dead_letter_queue", "order_updates.retry.5s"}
    read(shop, channels, but="payment_requests")

    counts: list[int] = []

    class Reports(Instrumentation):
        def queues_unread(self, count: int) -> None:
            counts.append(count)

    reports = Reports()
    queues = UnreadQueues(shop.api("monitor"), shop.vhost, instrumentation=reports, clock=SystemClock())
    queues.run_once()
    queues.run_once()
    assert counts == [0, 1], "one look is not enough: a process may be about to start"


def test_a_user_who_may_not_look_is_a_failure_of_the_broker_and_ends_no_process(shop: Installation) -> None:
    stranger, reports = shop.api("payments"), Instrumentation()
    queues = UnreadQueues(stranger, shop.vhost, instrumentation=reports, clock=SystemClock())
    with pytest.raises(BrokerUnavailable):
        queues.run_once()


def parsed(action: str, shop_name: str, passwords: Path | None, prefix: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    options = ["--vhost", shop_name, "--user-prefix", prefix, "--wait", "5"]
    return parser.parse_args([action, *options, *(["--passwords", str(passwords)] if passwords else [])])


def test_the_exit_code_of_the_command_shows_its_result(
    shop: Installation, tmp_path: Path, channels: Channels, capsys: pytest.CaptureFixture[str]
) -> None:
    read(shop, channels)
    prefix = shop.document.users[0].name.removesuffix("orders")
    file = tmp_path / "passwords.json"
    file.write_text(json.dumps({user.name.removeprefix(prefix): user.password for user in shop.document.users}))
    settings = Settings(management_url=shop.management_url)
    assert command.run(parsed("diff", shop.vhost, file, prefix), settings) == 0
    assert "the broker matches" in capsys.readouterr().out
    Management(shop.management_url).delete("queues", shop.vhost, "order_updates")
    assert command.run(parsed("diff", shop.vhost, file, prefix), settings) == 1
    differences = capsys.readouterr().out
    assert "missing queue order_updates" in differences
    assert command.run(parsed("apply", shop.vhost, file, prefix), settings) == 0
    assert "done: missing queue order_updates" in capsys.readouterr().out
    assert command.run(parsed("diff", shop.vhost, file, prefix), settings) == 1
    assert capsys.readouterr().out == "unread queue order_updates: it gets events and has no consumer\n"
    file.write_text("[]")
    assert command.run(parsed("diff", shop.vhost, file, prefix), settings) == 2
    assert "not a JSON object" in capsys.readouterr().err


def test_what_the_command_prints_is_what_a_broker_imports(
    shop: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = shop.document.users[0].name.removesuffix("orders")
    assert command.run(parsed("render", shop.vhost, None, prefix), Settings()) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert "password" not in json.dumps(printed)
    printed["users"] = []
    Management(shop.management_url).post("definitions", body=json.dumps(printed).encode())
    assert found(Management(shop.management_url), shop.document) == set()


def test_a_broker_that_is_not_there_is_waited_for_and_then_given_up() -> None:
    with pytest.raises(BrokerUnavailable):
        Management("http://user:x@127.0.0.1:9").wait(0)


def test_an_argument_that_an_import_skips_silently_is_still_found(shop: Installation) -> None:
    single: dict[str, Value] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    queues = [
        QueueDefinition(name=queue.name, vhost=queue.vhost, arguments=single)
        if queue.name == "order_updates"
        else queue
        for queue in shop.document.queues
    ]
    management = Management(shop.management_url)
    applied = apply(management, msgspec.structs.replace(shop.document, queues=queues))
    assert [difference.importable for difference in applied.left] == [False]
    assert applied.left[0].key == ("order_updates",)
