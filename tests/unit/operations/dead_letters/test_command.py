# SPDX-License-Identifier: Apache-2.0
"""The command refuses likely mistakes, and parses durations."""

import argparse
from datetime import timedelta

import pytest

from orderflow.messaging.errors import SettingsError
from orderflow.operations.dead_letters.command import FAILED, arguments, run
from orderflow.operations.dead_letters.view import age
from orderflow.settings import Settings
from tests.builders import NOW


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("replay",), "--all"),
        (("discard", "--yes"), "--all"),
        (("discard", "--reason", "bad_data"), "--yes"),
    ],
)
def test_a_command_for_many_dead_letters_needs_an_explicit_option(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parse(*words), Settings()) == FAILED
    assert says in capsys.readouterr().err


def test_a_replay_by_a_user_whom_no_consumer_believes_is_refused_before_it_begins() -> None:
    with pytest.raises(SettingsError, match="'replay'"):
        run(parse("replay", "--all"), Settings(amqp_url="amqp://admin:secret@127.0.0.1:1/"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("2h", 7200.0), ("1.5d", 129600.0)]
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert parse("list", "--older-than", text).older_than == seconds


@pytest.mark.parametrize(
    "words", [("list", "--older-than", "soon"), ("replay", "--rate", "0"), ("list", "--limit", "0")]
)
def test_an_invalid_argument_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(*words)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_age_is_shown_in_the_largest_unit_that_fits(seconds: int, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text
