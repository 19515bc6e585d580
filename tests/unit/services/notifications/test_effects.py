# SPDX-License-Identifier: Apache-2.0
from orderflow.events import OrderConfirmed
from orderflow.services.notifications.domain import notification
from orderflow.services.notifications.effects import MAX_ATTEMPTS, after_attempt
from orderflow.services.notifications.senders import SendFailed
from orderflow.services.notifications.store import DueNotification
from tests.builders import an_event

NOTIFICATION = notification(an_event(OrderConfirmed), {})


def test_a_notification_that_was_taken_is_sent_for_good() -> None:
    change = after_attempt(DueNotification(notification=NOTIFICATION, attempts=3), None)
    assert (change.state, change.due_seconds) == ("sent", None)


def test_one_that_was_not_taken_is_tried_again_until_its_attempts_are_used_up() -> None:
    for attempts in range(1, MAX_ATTEMPTS):
        change = after_attempt(DueNotification(notification=NOTIFICATION, attempts=attempts), SendFailed("status_500"))
        assert (change.state, change.reason) == ("pending", "status_500")
        assert change.due_seconds
    change = after_attempt(DueNotification(notification=NOTIFICATION, attempts=MAX_ATTEMPTS), SendFailed("status_500"))
    assert (change.state, change.due_seconds, change.reason) == ("failed", None, "status_500")


def test_delays_grow_to_five_minutes_and_all_attempts_fit_into_half_an_hour() -> None:
    def delay(attempts: int) -> float:
        update = after_attempt(DueNotification(notification=NOTIFICATION, attempts=attempts), SendFailed("status_500"))
        assert update.due_seconds is not None
        return update.due_seconds

    assert all(0.5 <= delay(1) <= 1 for _ in range(100))
    assert all(128 <= delay(MAX_ATTEMPTS - 1) <= 300 for _ in range(100))
    assert sum(delay(attempts) for attempts in range(1, MAX_ATTEMPTS)) < 1800
