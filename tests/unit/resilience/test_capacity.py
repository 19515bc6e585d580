# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from local.demo.load_generator import Response
from tests.resilience.capacity import FIRST_RATE, GeneratorTooSlow, climb
from tests.resilience.outcome import Outcome
from tests.rigs.resilience_runs import orders, outcome, responses


def step(rate: float, *, limit: float) -> Outcome:
    """A system that confirms up to ``limit`` orders each second, for 15 s."""
    confirmed = round(min(rate, limit))
    return outcome(
        *(orders(confirmed, at=second, seconds=0) for second in range(15)),
        *(responses(round(rate), at=second) for second in range(15)),
        seconds=15,
    )


@pytest.mark.parametrize("limit", [10, 100, 220])
def test_the_load_is_raised_until_the_confirmations_do_not_follow(limit: float) -> None:
    lines: list[str] = []
    assert climb(lambda rate: step(rate, limit=limit), lines.append) == pytest.approx(limit)
    assert len(lines) == (1 if limit < FIRST_RATE else 3 if limit == 100 else 6)


def test_a_step_that_the_load_generator_could_not_offer_ends_the_measurement() -> None:
    late = [Response(due=1, late_seconds=1, seconds=1, result="accepted")]
    with pytest.raises(GeneratorTooSlow, match="80 orders/s"):
        climb(lambda rate: replace(step(rate, limit=99), responses=late), lambda _: None)
