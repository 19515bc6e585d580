# SPDX-License-Identifier: Apache-2.0
"""The scenarios: load, fault, the windows that are shown and the bars that must be met."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from tests.resilience import bars, faults
from tests.resilience.bars import Bar
from tests.resilience.faults import Scene
from tests.resilience.outcome import FAULT, RETURN, Outcome, Window
from tests.resilience.times import Times

KILLS_RATE, SIGKILL_RATE = 80.0, 60.0
PAUSE_SHARE, OVERLOAD_SHARE = 0.9, 2.0
SHORT_OVERLOAD_SHARE = 5.0
"""The short form's capacity is not measured but low."""
SHORT_SHARE = 0.5
"""In the short form the fixed rates are at most this share of capacity."""
PAUSED = ("inventory", "orders", "payments")
ON_THE_PATH = ("orders-api", "orders", "inventory", "payments")
"""The processes that an order passes until it is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario. ``rate`` gives the orders per second for a capacity."""

    name: str
    meaning: str
    rate: Callable[[float], float]
    fault: Callable[[Scene], None]
    windows: Callable[[Outcome], Mapping[str, Window]]
    bars: Callable[[Outcome], Iterable[Bar]]
    replicas: int = 1


def names() -> dict[str, str]:
    """Every name that may be asked for, with its meaning."""
    return {"capacity": "raise the load until the decisions do not follow; the other loads depend on the result"} | {
        scenario.name: scenario.meaning for scenario in scenarios(Times(), (1,))
    }


def scenarios(times: Times, replicas: Iterable[int]) -> list[Scenario]:
    """All of them; those that kill exist for each number of replicas."""
    return [
        *(_pause(times, process) for process in PAUSED),
        _overload(times),
        *(_kills(times, count) for count in replicas),
        *(_sigkill(times, process, count) for process in ON_THE_PATH for count in replicas),
        _provider_away(times),
    ]


def _pause(times: Times, process: str) -> Scenario:
    return Scenario(
        name=f"pause-{process}",
        meaning=f"SIGSTOP {process} for {times.pause:g} s at {PAUSE_SHARE:.0%} of capacity, SIGCONT, and go on",
        rate=lambda capacity: PAUSE_SHARE * capacity,
        fault=partial(faults.pause, times=times, process=process),
        windows=lambda outcome: {
            "before the pause": Window(outcome.load.start, outcome.marks[FAULT]),
            "during the pause": Window(outcome.marks[FAULT], outcome.marks[RETURN]),
            f"up to {times.recovery:g} s after it": Window(
                outcome.marks[RETURN], outcome.marks[RETURN] + times.recovery
            ),
            f"from {times.recovery:g} s after it": bars.after_return(outcome, times),
        },
        bars=partial(bars.paused, times=times),
    )


def _overload(times: Times) -> Scenario:
    share = SHORT_OVERLOAD_SHARE if times.short else OVERLOAD_SHARE
    return Scenario(
        name="overload",
        meaning=f"{share:g} times the capacity for {times.overload:g} s",
        rate=lambda capacity: share * capacity,
        fault=partial(faults.none, seconds=times.overload),
        windows=lambda outcome: {"load without its first 5 s": bars.judged_load(outcome)},
        bars=partial(bars.overloaded, times=times),
    )


def _kills(times: Times, replicas: int) -> Scenario:
    return Scenario(
        name="kills",
        meaning=(
            f"{KILLS_RATE:g} orders/s for {times.kills:g} s; a random process is killed every "
            f"{times.kill_interval:g} s, the broker twice, the database once"
        ),
        rate=lambda capacity: _fixed(KILLS_RATE, capacity, times),
        fault=partial(faults.kill_schedule, times=times),
        windows=lambda outcome: {"load": outcome.load},
        bars=partial(bars.killed_again_and_again, times=times, replicas=replicas),
        replicas=replicas,
    )


def _sigkill(times: Times, process: str, replicas: int) -> Scenario:
    return Scenario(
        name=f"sigkill-{process}",
        meaning=f"one SIGKILL of {process} at {SIGKILL_RATE:g} orders/s",
        rate=lambda capacity: _fixed(SIGKILL_RATE, capacity, times),
        fault=partial(faults.kill_once, times=times, process=process),
        windows=lambda outcome: {"around the kill": bars.around_kill(outcome)},
        bars=partial(bars.killed_once, times=times, replicas=replicas),
        replicas=replicas,
    )


def _provider_away(times: Times) -> Scenario:
    return Scenario(
        name="provider-away",
        meaning=f"the payment provider is away for {times.provider_away:g} s at {SIGKILL_RATE:g} orders/s",
        rate=lambda capacity: _fixed(SIGKILL_RATE, capacity, times),
        fault=partial(faults.take_provider_away, times=times),
        windows=lambda outcome: {
            "while it is away": Window(outcome.marks[FAULT], outcome.marks[RETURN]),
            "after its return": Window(outcome.marks[RETURN], outcome.load.end),
        },
        bars=partial(bars.provider_away, times=times),
    )


def _fixed(rate: float, capacity: float, times: Times) -> float:
    return min(rate, SHORT_SHARE * capacity) if times.short else rate
