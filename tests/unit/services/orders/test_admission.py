# SPDX-License-Identifier: Apache-2.0
"""When new orders are refused, and when they are accepted again."""

import pytest

from orderflow.instrumentation import REFUSALS, Instrumentation
from orderflow.messaging.clock import ManualClock
from orderflow.services.orders.admission import Admission, Refusal
from orderflow.services.orders.progress import Progress, Step

LIMIT = 10


class Reports(Instrumentation):
    """Records what is reported of each look."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, bool]] = []

    def admission(self, *, predicted_seconds: float, accepting: bool) -> None:
        self.looks.append((predicted_seconds, accepting))


def waiting(age: float, count: int = 1, *, rate: float = 0) -> Step:
    """A step for which orders wait."""
    return Step(age_seconds=age, waiting=count, per_second=rate)


class Rig:
    """An admission and its clock."""

    def __init__(self) -> None:
        self.clock, self.reports = ManualClock(), Reports()
        self.admission = Admission(limit_seconds=LIMIT, clock=self.clock, instrumentation=self.reports)

    def refused(self, **steps: Step) -> Refusal | None:
        """The refusal of a request after this look, the probe left aside."""
        self.admission.update(Progress(**steps))
        self.admission.check()
        return self.admission.check()

    def accepted(self, seconds: float, *, tick: float) -> int:
        """How many of the requests are accepted that come one a tick for this time."""
        count = 0
        for _ in range(round(seconds / tick)):
            self.clock.advance(tick)
            count += self.admission.check() is None
        return count


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ({"reservation": waiting(10.1)}, "reservations_delayed"),
        ({"payment": waiting(10.1)}, "payments_delayed"),
        ({"reservation": waiting(2, 1010, rate=100)}, "backlog_too_long"),
        ({"payment": waiting(2, 1010, rate=100)}, "backlog_too_long"),
        ({"reservation": waiting(2, 510, rate=100), "payment": waiting(2, 510, rate=100)}, "backlog_too_long"),
        ({"reservation": waiting(11), "payment": waiting(12)}, "payments_delayed"),
        # Many are sold out at once, so reservations are quick; that is no progress of payments.
        ({"reservation": waiting(0.1, 5, rate=500), "payment": waiting(10.1)}, "payments_delayed"),
    ],
)
def test_an_order_that_would_not_be_decided_in_time_is_refused_with_the_cause(
    steps: dict[str, Step], reason: str
) -> None:
    refusal = Rig().refused(**steps)
    assert refusal is not None
    assert refusal.reason == reason
    assert reason in REFUSALS


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"reservation": waiting(9.9), "payment": waiting(9.9)},
        {"reservation": waiting(9, 990, rate=100)},
        {"reservation": waiting(9, 490, rate=100), "payment": waiting(9, 490, rate=100)},
        {"reservation": waiting(9, 5000)},
        # The first orders of a sale: the rate is that of the quiet time before.
        {"reservation": waiting(0.4, 40, rate=0.5)},
        {"payment": waiting(1.9, 200, rate=2)},
    ],
)
def test_an_order_that_can_be_decided_in_time_is_accepted(steps: dict[str, Step]) -> None:
    assert Rig().refused(**steps) is None


def test_refusing_ends_at_half_of_the_limit() -> None:
    rig = Rig()
    assert rig.refused(reservation=waiting(11))
    assert rig.refused(reservation=waiting(5.1))
    assert rig.refused(reservation=waiting(5)) is None
    assert rig.refused(reservation=waiting(9)) is None


def test_refusing_ends_while_a_backlog_is_emptied_although_its_head_has_waited_for_long() -> None:
    """Until the queue is empty its head has waited for as long as before; a new order would not."""
    rig = Rig()
    assert rig.refused(payment=waiting(10, 3400, rate=330))
    assert rig.refused(payment=waiting(10, 1700, rate=330))
    assert rig.refused(payment=waiting(10, 1600, rate=330)) is None


@pytest.mark.parametrize(
    ("step", "per_second"),
    [
        pytest.param(waiting(60), 1, id="standing still"),
        pytest.param(waiting(60, 6000, rate=100), 1, id="far above the limit"),
        pytest.param(waiting(10, 1000, rate=100), 1, id="at the limit"),
        pytest.param(waiting(10, 875, rate=100), 50, id="below it"),
        pytest.param(waiting(10, 750, rate=100), 100, id="halfway to the end of refusing: as many as are handled"),
        pytest.param(waiting(10, 510, rate=100), 196, id="before its end: twice as many"),
        pytest.param(waiting(0.5, 40, rate=100), 0, id="not busy: all"),
    ],
)
def test_while_refusing_the_fewer_orders_are_accepted_the_more_wait(step: Step, per_second: int) -> None:
    rig = Rig()
    assert rig.refused(payment=waiting(60))
    rig.admission.update(Progress(payment=step))
    offered = 1024
    accepted = rig.accepted(8, tick=1 / offered)
    assert accepted == pytest.approx(8 * (per_second or offered), rel=0.02)


def test_the_slower_of_two_busy_steps_decides_how_many_are_accepted() -> None:
    rig = Rig()
    assert rig.refused(payment=waiting(60))
    rig.admission.update(Progress(reservation=waiting(3, 250, rate=100), payment=waiting(3, 250, rate=50)))
    assert rig.accepted(8, tick=1 / 1024) == pytest.approx(8 * 50, rel=0.02)


def test_requests_that_come_unevenly_are_accepted_as_if_they_came_evenly() -> None:
    rig = Rig()
    assert rig.refused(payment=waiting(60))
    rig.admission.update(Progress(payment=waiting(10, 750, rate=100)))
    rig.clock.advance(60)
    assert [rig.admission.check() for _ in range(10)] == [None] * 10
    assert sum(rig.admission.check() is None for _ in range(100)) <= 1


def test_a_rate_that_goes_up_and_down_is_averaged() -> None:
    rig = Rig()
    for rate in [50, 150] * 30:
        rig.refused(payment=waiting(5, 800, rate=rate))
    predictions = [predicted for predicted, _ in rig.reports.looks[-20:]]
    assert min(predictions) > 7 and max(predictions) < 9


def test_after_a_pause_the_rate_is_that_of_the_time_since_then() -> None:
    rig = Rig()
    for _ in range(30):
        rig.refused(payment=waiting(5, 800, rate=10))
    rig.refused(payment=waiting(5, 800))
    rig.refused(payment=waiting(5, 800, rate=100))
    predicted, _ = rig.reports.looks[-1]
    assert predicted == 8


def test_the_client_is_asked_to_wait_for_the_time_above_half_of_the_limit_and_for_30_seconds_at_most() -> None:
    refusals = [Rig().refused(reservation=waiting(11)) for _ in range(50)]
    assert {refusal is not None and 6 <= refusal.retry_after <= 12 for refusal in refusals} == {True}
    assert len({refusal and refusal.retry_after for refusal in refusals}) > 1
    longest = Rig().refused(reservation=waiting(3600))
    assert longest is not None and longest.retry_after == 30


def test_every_look_is_reported() -> None:
    rig = Rig()
    rig.refused(reservation=waiting(11))
    rig.refused(payment=waiting(2, 20, rate=5))
    assert rig.reports.looks == [(11, False), (4, True)]
