# SPDX-License-Identifier: Apache-2.0
"""Processes are killed at random times under load; nothing is lost, doubled or oversold."""

import time

import pytest

from local.system import PROCESSES
from tests.integration.faults.trial import Trial

pytestmark = [pytest.mark.integration, pytest.mark.faults]

KILLS_EACH = 4
TOKENS = {"ok": 0.9, "decline": 0.1}


def kill_everything_in_turn(trial: Trial) -> None:
    """SIGKILL each process several times, in a shuffled order; processes may be killed while others recover."""
    targets = [*PROCESSES, "payment-simulator"] * KILLS_EACH
    trial.random.shuffle(targets)
    for target in targets:
        time.sleep(trial.random.uniform(0.2, 0.8))  # the random instant of a kill is the input of this test
        trial.system.supervisor.wait_ready(target)
        trial.system.supervisor.kill(target)
    trial.system.supervisor.wait_ready(*PROCESSES, "payment-simulator")
    trial.wait_for_accepted(1000)


def test_killing_each_process_again_and_again_breaks_no_promise(shop: Trial) -> None:
    shop.sell(kill_everything_in_turn, rate=50, tokens=TOKENS)
    kills = sum(code == -9 for name in PROCESSES for code in shop.system.supervisor.exits(name))
    assert kills >= 20
    assert shop.judge() == []
    assert len(shop.sale.record.accepted) >= 1000
