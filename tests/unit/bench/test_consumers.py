# SPDX-License-Identifier: Apache-2.0
import pytest

from tests.bench.consumers import OURS, Result, sides, summary


def result(rate: float, client: float) -> Result:
    return Result(rate, {"client": client, "postgresql": 100, "rabbitmq": 50})


def test_the_medians_and_our_ratio_to_each_other_side_are_printed() -> None:
    ours = [result(4000, 200), result(5000, 180), result(6000, 190)]
    limit = [result(4000, 85), result(10000, 80), result(6250, 90)]
    header, first, second, ratio = summary({OURS: ours, "the limit": limit})
    assert header.split()[-5:] == ["messages/s", "client", "postgresql", "rabbitmq", "all"]
    assert first.split() == ["ours", "5000", "190", "100", "50", "340"]
    assert second.split() == ["the", "limit", "6250", "85", "100", "50", "235"]
    assert ratio == "ours / the limit: 0.96 (in each round 1.00, 0.50, 0.96)"


def test_without_go_the_other_sides_run_and_one_sentence_says_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    lines: list[str] = []
    assert [side.name for side in sides(lines.append)] == [OURS, "FastStream, a transaction a message"]
    (line,) = lines
    assert line.startswith("the compiled clients are left out: Go is not installed: install Go")
