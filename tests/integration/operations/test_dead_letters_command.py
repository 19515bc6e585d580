# SPDX-License-Identifier: Apache-2.0
"""The dead letter commands on a real broker, as the user that may only replay."""

import argparse
import json
from typing import Any

import pika
import pytest

from local.demo.poison import every_kind
from orderflow.operations.dead_letters import command
from orderflow.operations.dead_letters.queue import DeadLetterQueue
from orderflow.operations.dead_letters.view import terminal
from orderflow.settings import Settings
from tests.integration.operations.conftest import Channels, Installation
from tests.rigs.dead_letters import PRIVATE, ids_in, store_dead_letters, taken

pytestmark = pytest.mark.integration


def run_command(shop: Installation, *words: str) -> tuple[int, str]:
    """Exit code and output of the command, as the user who may replay."""
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    console = terminal(width=300)
    with console.capture() as captured:
        settings = Settings(amqp_url=shop.url("replay"))
        code = command.run(parser.parse_args(words), settings, console=console)
    return code, captured.get()


def test_list_and_inspect_show_reasons_and_traces_but_no_personal_data(shop: Installation, channels: Channels) -> None:
    stored = store_dead_letters(shop, channels, ["bad_data", "other"])
    code, text = run_command(shop, "list", "--reason", "bad_data")
    assert code == 0
    assert stored[0] in text and stored[1] not in text
    assert "1 shown of 2" in text

    code, text = run_command(shop, "list", "--json")
    listed = json.loads(text)
    assert [letter["reason"] for letter in listed["dead_letters"]] == ["bad_data", "other"]

    code, plain = run_command(shop, "inspect", stored[0])
    assert code == 0
    code, as_json = run_command(shop, "inspect", "--json", stored[0])
    shown = json.loads(as_json)["dead_letters"][0]
    assert shown["body"]["user_id"] == shown["body"]["payment_token"] == "***"
    for text in (plain, as_json):
        assert "0af7651916cd43dd8448eb211c80319c" in text
        assert PRIVATE not in text
    assert run_command(shop, "inspect", "unknown-id")[0] == 1


def test_replay_and_discard_as_commands(shop: Installation, channels: Channels) -> None:
    stored = store_dead_letters(shop, channels, ["a", "a", "b"])
    assert run_command(shop, "replay", stored[0], "--rate", "1000")[0] == 0
    code, text = run_command(shop, "discard", "--reason", "a", "--yes", "--json")
    assert code == 0
    assert [letter["message_id"] for letter in json.loads(text)["discarded"]] == [stored[1]]
    assert [properties.message_id for properties, _ in taken(shop, channels)] == [stored[0]]
    assert ids_in(DeadLetterQueue(shop.url("replay"))) == [stored[2]]


def test_the_number_beyond_the_limit_is_printed(shop: Installation, channels: Channels) -> None:
    store_dead_letters(shop, channels, ["a"] * 5 + ["b"])
    code, text = run_command(shop, "replay", "--reason", "a", "--limit", "2", "--dry-run")
    assert code == 1
    assert "would replay 2, kept 0, 3 more are selected: run the command again" in text
    code, text = run_command(shop, "discard", "--reason", "a", "--limit", "4", "--yes", "--json")
    assert (code, json.loads(text)["left"]) == (1, 1)
    assert run_command(shop, "replay", "--all", "--rate", "1000")[0] == 0


def test_what_a_publisher_wrote_does_nothing_to_a_terminal(shop: Installation, channels: Channels) -> None:
    deep: Any = 1
    for _ in range(800):
        deep = [deep]
    channel = channels.open(shop.url("payments"))
    for message_id in ("[/b]", "[red]x", "\x1b[2Jcleared", ":bomb:"):
        properties = pika.BasicProperties(message_id=message_id, type="[/]", headers={})
        body = json.dumps({"items": deep}).encode()
        channel.basic_publish("dlx", "payment_requests", body, properties, mandatory=True)
    code, text = run_command(shop, "list")
    assert code == 0
    for shown in ("[/b]", "[red]x", "\\x1b[2Jcleared", ":bomb:"):
        assert shown in text
    code, text = run_command(shop, "inspect", "[/b]")
    assert code == 0
    code, text = run_command(shop, "discard", "--all", "--yes")
    assert code == 0
    assert "\x1b" not in text


def test_poison_of_every_kind_can_be_inspected_and_replayed(shop: Installation, channels: Channels) -> None:
    poison = list(every_kind())
    channel = channels.open(shop.url("payments"))
    for one in poison:
        channel.basic_publish("dlx", "payment_requests", one.body, one.properties, mandatory=True)
    code, text = run_command(shop, "list", "--json")
    assert (code, len(json.loads(text)["dead_letters"])) == (0, len(poison))
    ids = {letter["message_id"] for letter in json.loads(text)["dead_letters"]} - {""}
    assert run_command(shop, "inspect", *ids)[0] == run_command(shop, "inspect", "--json", *ids)[0] == 0
    code, text = run_command(shop, "replay", "--all", "--rate", "1000", "--json")
    assert (code, len(json.loads(text)["replayed"])) == (0, len(poison))
    assert len(taken(shop, channels)) == len(poison)


def test_without_the_permission_the_broker_refuses(shop: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    code = command.run(parser.parse_args(["list"]), Settings(amqp_url=shop.url("payments")))
    assert code == 2
    assert "ACCESS_REFUSED" in capsys.readouterr().err
