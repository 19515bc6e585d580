# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.bench.pipeline import LOAD_GENERATOR, Measured, Step, figures, in_turns, saturation
from tests.resilience.table import table

CPU = {"orders": 1.0, "postgresql": 2.0, "payment-simulator": 8.0, "trace-store": 16.0, LOAD_GENERATOR: 32.0}


def system(limit: float, taken: list[float]) -> Callable[[float], Step]:
    """A system that confirms up to ``limit`` orders a second, in steps of 10 s."""

    def step(rate: float) -> Step:
        taken.append(rate)
        return Step(
            rate=rate,
            seconds=10,
            offered=rate,
            confirmed=min(rate, limit),
            p50_seconds=0.1,
            p95_seconds=0.2,
            cpu=CPU,
        )

    return step


@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        (80, [200, 200, 178.9, 178.9, 40]),  # saturated by the first rate
        (240, [200, 250, 312.5, 312.5, 279.5, 279.5, 120]),
    ],
)
def test_the_rate_is_raised_until_the_confirmations_do_not_follow(limit: float, steps: list[float]) -> None:
    taken: list[float] = []
    saturated, half = saturation(system(limit, taken), 200)
    assert taken == pytest.approx(steps, abs=0.1)
    assert saturated.confirmed == limit
    assert half.rate == limit / 2


def test_a_step_for_which_the_load_generator_was_late_is_not_the_saturation() -> None:
    def late_above_200(rate: float) -> Step:
        return replace(offered(rate), valid=rate <= 200)

    offered = system(240, [])
    saturated, _ = saturation(late_above_200, 200)
    assert saturated.confirmed == 200


def test_a_system_that_always_follows_does_not_raise_the_rate_for_ever() -> None:
    taken: list[float] = []
    saturation(system(float("inf"), taken), 100)
    assert len(taken) <= 13


def test_the_cpu_of_an_order_is_that_of_the_product_broker_and_database() -> None:
    step = system(100, [])(100)
    shown = {
        figure.label.strip(): figure.value for figure in figures(Measured(fixed=[step], saturated=step, half=step))
    }
    assert shown["CPU per order, ms"] == pytest.approx(3.0)
    assert shown["orders"] == pytest.approx(1.0)
    assert shown["postgresql"] == pytest.approx(2.0)
    assert shown[f"not counted: {LOAD_GENERATOR}"] == pytest.approx(32.0)


def test_two_builds_are_compared_at_each_rate_although_their_saturation_differs() -> None:
    builds = [system(250, []), system(110, [])]
    found = [
        Measured(fixed=steps, saturated=most, half=half)
        for steps, (most, half) in zip(
            in_turns(builds, (100,)), (saturation(step, 100) for step in builds), strict=True
        )
    ]
    lines = table(["this", "base"], [figures(of_build) for of_build in found])
    rows = {line.split(":")[0]: line.split()[-3:] for line in lines if "confirmed/s" in line}
    assert rows == {
        "100 orders/s offered": ["100.0", "100.0", "1.00"],
        "saturation": ["250.0", "110.0", "2.27"],
        "half of saturation": ["125.0", "55.0", "2.27"],
    }


def test_a_step_in_which_nothing_was_confirmed_can_be_shown() -> None:
    step = system(0, [])(100)
    assert figures(Measured(fixed=[step], saturated=step, half=step))[3].value == 0


def test_builds_take_turns_at_each_rate_after_a_step_that_is_not_shown() -> None:
    taken: list[tuple[str, float]] = []

    def named(name: str) -> Callable[[float], Step]:
        def step(rate: float) -> Step:
            taken.append((name, rate))
            return system(140, [])(rate)

        return step

    found = in_turns([named("ours"), named("base")], (50, 100))
    assert taken == [("ours", 50), ("base", 50)] * 2 + [("ours", 100), ("base", 100)]
    assert [[step.rate for step in steps] for steps in found] == [[50, 100]] * 2


def test_a_step_that_something_else_has_disturbed_is_repeated() -> None:
    taken: list[float] = []
    quiet, disturbed = system(1000, taken), system(50, taken)
    ((step,),) = in_turns([lambda rate: disturbed(rate) if len(taken) == 1 else quiet(rate)], (100,))
    assert step.confirmed == 100
