# SPDX-License-Identifier: Apache-2.0
"""What a run must achieve: one bar for each sentence of the acceptance, with what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.resilience.outcome import FAULT, RETURN, Outcome, Window, parts, quantile, refused
from tests.resilience.times import Times

GOODPUT_AFTER_PAUSE, MAX_CANCELLED_AFTER_PAUSE = 0.9, 0.01
OVERLOAD_GOODPUT, MAX_REFUSAL_SECONDS = 0.85, 0.05
CONFIRMED_WITH_KILLS = {1: 0.6, 2: 0.95}
MAX_AFTER_RESTART, MAX_WITH_TWO, MAX_AFTER_PROVIDER = 2.0, 1.5, 2.0
AROUND_KILL = (5.0, 10.0)
"""Seconds before and after a kill; the slowest order accepted within them is judged."""
_RAMP_SECONDS = 5.0
"""The first orders of a load become final only after that; the goodput of that time is not judged."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One requirement, what was measured, and whether it is met."""

    text: str
    measured: str
    met: bool


def promises(outcome: Outcome) -> Iterator[Bar]:
    """What holds in every scenario."""
    yield Bar("no promise is broken", "; ".join(outcome.broken) or "none", not outcome.broken)
    ended = ", ".join(f"{name}: {list(codes)}" for name, codes in outcome.exits.items())
    yield Bar("no process ends by itself", ended or "none", not outcome.exits)


def after_return(outcome: Outcome, times: Times) -> Window:
    """From the recovery time after the return until the load ends."""
    return Window(outcome.marks[RETURN] + times.recovery, outcome.load.end)


def judged_load(outcome: Outcome) -> Window:
    """The load without its first seconds."""
    return Window(outcome.load.start + _RAMP_SECONDS, outcome.load.end)


def around_kill(outcome: Outcome) -> Window:
    """The orders that a kill may have delayed."""
    before, after = AROUND_KILL
    return Window(outcome.marks[FAULT] - before, outcome.marks[FAULT] + after)


def paused(outcome: Outcome, times: Times) -> Iterator[Bar]:
    """After a pause the shop sells as before, and what it accepts is sold."""
    since = Window(outcome.marks[RETURN], outcome.load.end)
    if times.short:
        yield _some("orders are accepted after the return", outcome.accepted(since))
        yield _some("orders accepted after the return are confirmed", outcome.confirmed(since))
        return
    window = after_return(outcome, times)
    wanted = min(outcome.offered(window), outcome.capacity * window.seconds)
    text = f"confirmed of the orders offered (or of capacity), from {times.recovery:g} s after the return"
    yield _at_least(text, GOODPUT_AFTER_PAUSE, _share(outcome.confirmed(window), wanted))
    share = _share(outcome.accepted(since, "cancelled"), outcome.accepted(since))
    text = f"cancelled of the orders accepted after the return ≤ {MAX_CANCELLED_AFTER_PAUSE:.0%}"
    yield Bar(text, f"{share:.1%}", share <= MAX_CANCELLED_AFTER_PAUSE)


def overloaded(outcome: Outcome, times: Times) -> Iterator[Bar]:
    """Twice the capacity costs no goodput, refusals are quick, and what is accepted is decided in time."""
    if times.short:
        yield _some("orders are accepted and confirmed under overload", outcome.confirmed(outcome.load))
        return
    lowest = min(map(outcome.goodput, parts(judged_load(outcome), times.goodput_window)))
    text = f"lowest goodput in {times.goodput_window:g} s, of capacity"
    yield _at_least(text, OVERLOAD_GOODPUT, _share(lowest, outcome.capacity))
    yield _within("refusals answered, p99", MAX_REFUSAL_SECONDS, quantile(outcome.response_seconds(refused), 0.99))
    yield _within("accepted → final, p99", times.hold, quantile(outcome.waits(outcome.load), 0.99))


def killed_again_and_again(outcome: Outcome, times: Times, *, replicas: int) -> Iterator[Bar]:
    """Most orders are confirmed all the same."""
    if times.short:
        yield _some("orders are confirmed", outcome.confirmed(outcome.load))
        return
    share = _share(outcome.confirmed(outcome.load), outcome.offered(outcome.load))
    yield _at_least("confirmed of the orders offered", CONFIRMED_WITH_KILLS[replicas], share)


def killed_once(outcome: Outcome, times: Times, *, replicas: int) -> Iterator[Bar]:
    """The slowest order waits hardly longer than the restart takes."""
    if times.short:
        yield _some("orders accepted after the restart are confirmed", outcome.confirmed(_since_return(outcome)))
        return
    worst = max(outcome.waits(around_kill(outcome)), default=0.0)
    if replicas > 1:
        yield _within("slowest order around the kill", MAX_WITH_TWO, worst)
        return
    restart = outcome.marks[RETURN] - outcome.marks[FAULT]
    text = f"slowest order around the kill: restart ({restart:.1f} s) + {MAX_AFTER_RESTART:g} s"
    yield _within(text, restart + MAX_AFTER_RESTART, worst)


def provider_away(outcome: Outcome, times: Times) -> Iterator[Bar]:
    """Calls resume at once when the provider is back."""
    since = _since_return(outcome)
    if times.short:
        yield _some("orders accepted after the return are confirmed", outcome.confirmed(since))
        return
    text = "slowest order accepted after the return"
    yield _within(text, MAX_AFTER_PROVIDER, max(outcome.waits(since), default=0.0))


def _since_return(outcome: Outcome) -> Window:
    return Window(outcome.marks[RETURN], outcome.load.end)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _some(text: str, count: int) -> Bar:
    return Bar(text, str(count), count > 0)


def _at_least(text: str, least: float, share: float) -> Bar:
    return Bar(f"{text} ≥ {least:.0%}", f"{share:.1%}", share >= least)


def _within(text: str, most: float, seconds: float) -> Bar:
    return Bar(f"{text} ≤ {most:.3g} s", f"{seconds:.3f} s", seconds <= most)
