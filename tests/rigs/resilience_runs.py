# SPDX-License-Identifier: Apache-2.0
"""Outcomes of resilience scenarios that were never run, for tests of what is counted and judged."""

from collections.abc import Iterable, Mapping

from local.demo.load_generator import Response
from tests.resilience.outcome import Order, Outcome, Window


def orders(count: int, *, at: float, status: str = "confirmed", seconds: float = 0.5) -> list[Order]:
    """Orders accepted at one time."""
    return [Order(accepted=at, final=at + seconds, status=status)] * count


def responses(count: int, *, at: float, result: str = "accepted", seconds: float = 0.01) -> list[Response]:
    """Responses to orders that were due at one time."""
    return [Response(due=at, late_seconds=0.001, seconds=seconds, result=result)] * count


def outcome(
    *parts: Iterable[Order | Response],
    seconds: float = 100,
    marks: Mapping[str, float] | None = None,
    capacity: float = 10,
) -> Outcome:
    """An outcome whose load began at time 0."""
    everything = [entry for part in parts for entry in part]
    return Outcome(
        rate=10,
        capacity=capacity,
        load=Window(0, seconds),
        read_at=seconds + 50,
        orders=[entry for entry in everything if isinstance(entry, Order)],
        responses=[entry for entry in everything if isinstance(entry, Response)],
        marks=marks or {},
    )
