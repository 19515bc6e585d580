# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

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
def test_the_load_is_raised_until_the_confirmations_neither_follow_nor_grow(limit: float) -> None:
    lines: list[str] = []
    capacity = climb(lambda rate: step(rate, limit=limit), lines.append)
    assert capacity.rate == pytest.approx(limit)
    assert str(capacity) == f"{limit:.1f} orders/s"
    assert len(lines) == (2 if limit < FIRST_RATE else 3 if limit == 100 else 7)


def late(outcome: Outcome) -> Outcome:
    """The same with a load generator that was too slow."""
    return replace(outcome, responses=[replace(response, late_seconds=1) for response in outcome.responses])


def test_a_load_generator_that_cannot_offer_the_first_step_measures_nothing() -> None:
    with pytest.raises(GeneratorTooSlow, match="80 orders/s"):
        climb(lambda rate: late(step(rate, limit=99)), lambda _: None)


def test_a_step_that_the_load_generator_could_not_offer_ends_the_measurement_and_does_not_count() -> None:
    lines: list[str] = []
    capacity = climb(lambda rate: late(step(rate, limit=999)) if rate > 100 else step(rate, limit=999), lines.append)
    assert str(capacity) == "at least 100.0 orders/s"
    assert lines[-1].startswith("the load generator was too slow for 125 orders/s")


def test_the_capacity_is_not_reached_when_every_step_follows() -> None:
    assert not climb(lambda rate: step(rate, limit=9999), lambda _: None).reached
