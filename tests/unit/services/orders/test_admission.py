# SPDX-License-Identifier: Apache-2.0
"""When new orders are refused, and when they are accepted again."""

import pytest

from orderflow.instrumentation import REFUSALS, Instrumentation
from orderflow.messaging.clock import ManualClock
from orderflow.services.orders.admission import Admission, Refusal
from orderflow.services.orders.progress import Progress

LIMIT = 10


class Reports(Instrumentation):
    """Records what is reported of each look."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, bool]] = []

    def admission(self, *, predicted_seconds: float, accepting: bool) -> None:
        self.looks.append((predicted_seconds, accepting))


class Rig:
    """An admission whose first probe has been used."""

    def __init__(self) -> None:
        self.clock, self.reports = ManualClock(), Reports()
        self.admission = Admission(limit_seconds=LIMIT, clock=self.clock, instrumentation=self.reports)

    def refused(self, **progress: float) -> Refusal | None:
        """The refusal of a request after this look, the probe left aside."""
        self.admission.update(Progress(**progress))  # type: ignore[arg-type]
        self.admission.check()
        return self.admission.check()


@pytest.mark.parametrize(
    ("progress", "reason"),
    [
        ({"reservation_age_seconds": 10.1}, "reservations_delayed"),
        ({"payment_age_seconds": 10.1}, "payments_delayed"),
        ({"reservation_age_seconds": 2, "waiting": 1010, "decided_per_second": 100}, "backlog_too_long"),
        ({"payment_age_seconds": 2, "waiting": 1010, "decided_per_second": 100}, "backlog_too_long"),
        ({"reservation_age_seconds": 11, "payment_age_seconds": 12}, "payments_delayed"),
    ],
)
def test_an_order_that_would_not_be_decided_in_time_is_refused_with_the_cause(
    progress: dict[str, float], reason: str
) -> None:
    refusal = Rig().refused(**progress)
    assert refusal is not None
    assert refusal.reason == reason
    assert reason in REFUSALS


@pytest.mark.parametrize(
    "progress",
    [
        {},
        {"reservation_age_seconds": 9.9, "payment_age_seconds": 9.9},
        {"reservation_age_seconds": 9, "waiting": 990, "decided_per_second": 100},
        {"reservation_age_seconds": 9, "waiting": 5000, "decided_per_second": 0},
        # The first orders of a sale: the rate is that of the quiet time before.
        {"reservation_age_seconds": 0.4, "waiting": 40, "decided_per_second": 0.5},
        {"payment_age_seconds": 1.9, "waiting": 200, "decided_per_second": 2},
    ],
)
def test_an_order_that_can_be_decided_in_time_is_accepted(progress: dict[str, float]) -> None:
    assert Rig().refused(**progress) is None


def test_refusing_ends_at_half_of_the_limit() -> None:
    rig = Rig()
    assert rig.refused(reservation_age_seconds=11)
    assert rig.refused(reservation_age_seconds=5.1)
    assert rig.refused(reservation_age_seconds=5) is None
    assert rig.refused(reservation_age_seconds=9) is None


def test_one_order_per_second_is_accepted_while_others_are_refused() -> None:
    rig = Rig()
    assert rig.refused(payment_age_seconds=60)
    accepted = 0
    for _ in range(80):
        rig.clock.advance(0.125)
        accepted += rig.admission.check() is None
    assert accepted == 10


def test_the_client_is_asked_to_wait_for_the_time_above_half_of_the_limit_and_for_30_seconds_at_most() -> None:
    refusals = [Rig().refused(reservation_age_seconds=11) for _ in range(50)]
    assert {refusal is not None and 6 <= refusal.retry_after <= 12 for refusal in refusals} == {True}
    assert len({refusal and refusal.retry_after for refusal in refusals}) > 1
    longest = Rig().refused(reservation_age_seconds=3600)
    assert longest is not None and longest.retry_after == 30


def test_every_look_is_reported() -> None:
    rig = Rig()
    rig.refused(reservation_age_seconds=11)
    rig.refused(payment_age_seconds=2, waiting=20, decided_per_second=5)
    assert rig.reports.looks == [(11, False), (4, True)]
