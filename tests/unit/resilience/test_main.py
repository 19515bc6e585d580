# SPDX-License-Identifier: Apache-2.0
import subprocess
from dataclasses import replace

import pytest

from local.demo.load_generator import Response
from local.system import ROOT
from tests.resilience.__main__ import CANNOT_RUN, MET, MISSED, main, verdict
from tests.resilience.bars import Bar
from tests.resilience.builds import OURS, UnknownCommit, checked_out
from tests.resilience.scenarios import names, scenarios
from tests.resilience.times import LONG, SHORT
from tests.rigs.resilience_runs import outcome

KEPT, BROKEN = Bar("kept", "1", True), Bar("broken", "0", False)


@pytest.mark.parametrize(("bars", "code"), [([KEPT], MET), ([KEPT, BROKEN], MISSED)])
def test_one_missed_bar_is_a_missed_scenario(bars: list[Bar], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(outcome(), bars) == code
    assert "met     kept: 1" in capsys.readouterr().out


def test_a_run_with_a_late_load_generator_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    late = [Response(due=1, late_seconds=1, seconds=1, result="accepted")]
    assert verdict(replace(outcome(), responses=late), [KEPT]) == CANNOT_RUN
    assert "INVALID" in capsys.readouterr().out


def test_help_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert [name for name in names() if f"\n  {name} " not in printed] == []


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["pause-everything"])
    assert stopped.value.code == CANNOT_RUN


def test_what_kills_runs_with_one_and_with_two_replicas() -> None:
    both = [(scenario.name, scenario.replicas) for scenario in scenarios(LONG, (1, 2))]
    assert {("kills", 1), ("kills", 2), ("sigkill-orders", 2), ("pause-orders", 1)} <= set(both)
    assert ("pause-orders", 2) not in both
    assert len(set(both)) == len(both)


def test_the_short_form_never_offers_more_than_a_slow_machine_confirms() -> None:
    rates = {scenario.name: scenario.rate(40) for scenario in scenarios(SHORT, (1,))}
    assert rates.pop("overload") == 200
    assert max(rates.values()) <= 40


def test_a_build_gets_only_the_settings_that_it_has() -> None:
    wanted = {"ORDERFLOW_HOLD_SECONDS": "20", "OTEL_TRACES_SAMPLER": "always_on"}
    assert OURS.known({**wanted, "ORDERFLOW_NO_SUCH_SETTING": "1"}) == wanted
    assert OURS.known(SHORT.environ) == SHORT.environ
    assert OURS.tree == ROOT


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the sources are not in a repository")
def test_a_commit_is_checked_out_outside_the_checkout_and_removed_at_the_end() -> None:
    with checked_out("HEAD") as build:
        assert ROOT not in build.tree.parents
        assert "ORDERFLOW_HOLD_SECONDS" in build.known(SHORT.environ)
    assert not build.tree.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert str(build.tree) not in listed


def test_a_commit_that_does_not_exist_is_reported() -> None:
    with pytest.raises(UnknownCommit, match="no-such-commit"), checked_out("no-such-commit"):
        pass
