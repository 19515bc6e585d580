# SPDX-License-Identifier: Apache-2.0
"""The document on a real broker: applied twice, compared, and applied again after changes."""

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orderflow.messaging.errors import BrokerUnavailable
from orderflow.operations.management_api import Management
from orderflow.operations.topology import command
from orderflow.operations.topology.apply import apply, diff
from orderflow.rabbitmq_definitions import Definitions, QueueDefinition, Value
from orderflow.settings import Settings
from tests.integration.operations.conftest import Channels, Installation, consume_all

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


def test_without_passwords_everything_but_the_users_is_applied(management_url: str, wanted: Definitions) -> None:
    unknown = [msgspec.structs.replace(user, password=None) for user in wanted.users]
    applied = apply(Management(management_url), msgspec.structs.replace(wanted, users=unknown))
    assert not applied.complete
    assert {difference.kind for difference in applied.left} == {"user", "permission", "topic permission"}


def parsed(action: str, shop_name: str, passwords: Path | None, prefix: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    options = ["--vhost", shop_name, "--user-prefix", prefix, "--wait", "5"]
    return parser.parse_args([action, *options, *(["--passwords", str(passwords)] if passwords else [])])


def test_the_exit_code_of_the_command_shows_its_result(
    shop: Installation, tmp_path: Path, channels: Channels, capsys: pytest.CaptureFixture[str]
) -> None:
    consume_all(shop, channels)
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
