# SPDX-License-Identifier: Apache-2.0
"""A paused process costs the orders of its pause, not those after it; the long form is ``make resilience``."""

import pytest

from local.servers.stack import Stack
from tests.resilience.bars import promises
from tests.resilience.builds import OURS
from tests.resilience.outcome import RETURN, Window
from tests.resilience.run import run
from tests.resilience.scenarios import scenarios
from tests.resilience.times import SHORT

pytestmark = [pytest.mark.integration, pytest.mark.faults]

CAPACITY = 40.0
"""Orders per second that four workers on a small machine confirm."""


def test_after_a_pause_of_inventory_orders_are_accepted_and_confirmed_while_the_load_lasts(breakable: Stack) -> None:
    (scenario,) = [scenario for scenario in scenarios(SHORT, ()) if scenario.name == "pause-inventory"]
    outcome = run(scenario, OURS, breakable, times=SHORT, capacity=CAPACITY, report=print)
    required = [*scenario.bars(outcome), *promises(outcome)]
    assert [bar for bar in required if not bar.met] == []
    back = Window(outcome.marks[RETURN], outcome.load.end)
    sold = [order.final for order in outcome.orders if order.status == "confirmed" and order.accepted in back]
    assert any(final in back for final in sold if final)
