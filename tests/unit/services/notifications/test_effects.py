# SPDX-License-Identifier: Apache-2.0
from orderflow.events import OrderConfirmed
from orderflow.services.notifications.domain import notification
from orderflow.services.notifications.effects import MAX_DELAY_SECONDS, MIN_ATTEMPTS, RETRY_SECONDS, after_attempt
from orderflow.services.notifications.senders import SendFailed
from orderflow.services.notifications.store import DeliveryUpdate, DueNotification
from tests.builders import an_event

NOTIFICATION = notification(an_event(OrderConfirmed), {})


def test_a_notification_that_was_taken_is_sent_for_good() -> None:
    change = after_attempt(DueNotification(notification=NOTIFICATION, attempts=3), None)
    assert (change.state, change.due_seconds) == ("sent", None)


def failed(attempts: int, age_seconds: float, reason: str = "status_500") -> DeliveryUpdate:
    """What follows a send that failed."""
    task = DueNotification(notification=NOTIFICATION, attempts=attempts, age_seconds=age_seconds)
    return after_attempt(task, SendFailed(reason))


def test_one_that_was_not_taken_is_tried_again_until_its_time_is_used_up() -> None:
    for attempts in (1, MIN_ATTEMPTS, 100):
        change = failed(attempts, RETRY_SECONDS - 1)
        assert (change.state, change.reason) == ("pending", "status_500")
        assert change.due_seconds
    change = failed(MIN_ATTEMPTS, RETRY_SECONDS)
    assert (change.state, change.due_seconds, change.reason) == ("failed", None, "status_500")


def test_one_that_waited_for_a_receiver_that_was_away_still_gets_its_attempts() -> None:
    assert failed(MIN_ATTEMPTS - 1, 10 * RETRY_SECONDS).state == "pending"


def test_one_that_can_never_be_sent_fails_immediately() -> None:
    assert failed(1, 0, "invalid_address").state == "failed"


def test_delays_grow_to_a_quarter_of_an_hour_so_that_a_day_has_about_a_hundred_attempts() -> None:
    delays = [failed(attempts, 0).due_seconds or 0 for attempts in range(1, 40)]
    assert 0.5 <= delays[0] <= 1
    assert all(MAX_DELAY_SECONDS / 2 <= delay <= MAX_DELAY_SECONDS for delay in delays[11:])
    assert sum(delays[: MIN_ATTEMPTS - 1]) < 1800
