# SPDX-License-Identifier: Apache-2.0
from orderflow.events import OrderConfirmed
from orderflow.services.notifications.domain import notification
from orderflow.services.notifications.effects import MOST_ATTEMPTS, delay_seconds, judge
from orderflow.services.notifications.senders import SendFailed
from orderflow.services.notifications.store import DueNotification
from tests.builders import an_event

TOLD = notification(an_event(OrderConfirmed), {})


def test_a_notification_that_was_taken_is_sent_for_good() -> None:
    change = judge(DueNotification(notification=TOLD, attempts=3), None)
    assert (change.state, change.due_seconds) == ("sent", None)


def test_one_that_was_not_taken_is_tried_again_until_its_attempts_are_used_up() -> None:
    for attempts in range(1, MOST_ATTEMPTS):
        change = judge(DueNotification(notification=TOLD, attempts=attempts), SendFailed("status_500"))
        assert (change.state, change.reason) == ("pending", "status_500")
        assert change.due_seconds
    change = judge(DueNotification(notification=TOLD, attempts=MOST_ATTEMPTS), SendFailed("status_500"))
    assert (change.state, change.due_seconds, change.reason) == ("failed", None, "status_500")


def test_pauses_grow_to_five_minutes_and_all_attempts_fit_into_half_an_hour() -> None:
    assert all(0.5 <= delay_seconds(1) <= 1 for _ in range(100))
    assert all(150 <= delay_seconds(1000) <= 300 for _ in range(100))
    assert sum(delay_seconds(attempts) for attempts in range(1, MOST_ATTEMPTS)) < 1800
