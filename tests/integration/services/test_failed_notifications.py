# SPDX-License-Identifier: Apache-2.0
"""Notifications that no receiver accepted in time, and the command that sends them again."""

import pytest

from local.eventually import eventually
from orderflow.events import OrderConfirmed, OrderRejected
from orderflow.operations.failed_work.notifications import NOTIFICATIONS
from orderflow.services.notifications.senders import WebhookSender
from tests.builders import an_event
from tests.rigs.consumer import one, query
from tests.rigs.failed_work import listed, run
from tests.rigs.notifications import Notifications, Webhook, webhook
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration


def fail_two(url: str, hook: Webhook) -> tuple[str, str]:
    """Two notifications that failed, the first with 500 and the second with 410; their keys."""
    keys = []
    for kind, status in ((OrderConfirmed, 500), (OrderRejected, 410)):
        hook.statuses = [status]
        with Notifications(url, WebhookSender(hook.url), min_attempts=1, retry_seconds=0) as failing:
            failing.receive(an_event(kind))
            eventually(lambda: failing.states("notifications").keys() == {"failed"})
        keys.append(hook.keys[-1])
    return keys[0], keys[1]


def test_a_receiver_that_fails_for_hours_gets_the_notification_when_it_works_again(database: str) -> None:
    prepare_service(database, "notifications")
    with webhook() as hook, Notifications(database, WebhookSender(hook.url)) as notifications:
        hook.statuses = [500, 500]
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: len(hook.posts) == 1)
        # Twenty-three hours and many attempts later.
        age = "update notifications set attempts = 90, due_at = now(), created_at = now() - interval '23 h' returning 1"
        eventually(lambda: query(database, "select 1 from notifications where reason = 'status_500'"))
        query(database, age)
        eventually(lambda: len(hook.posts) == 2)
        eventually(lambda: query(database, "select 1 from notifications where attempts = 91 and leased_by is null"))
        assert one(database, "select due_at > now() + interval '5 min' from notifications where state = 'pending'")
        query(database, "update notifications set due_at = now() returning 1")
        eventually(lambda: notifications.states("notifications") == {"sent": 1})
    assert len(set(hook.keys)) == 1


def test_an_operator_sends_failed_notifications_again_with_the_same_key(database: str) -> None:
    prepare_service(database, "notifications")
    with webhook() as hook:
        confirmed, rejected = fail_two(database, hook)
        found = listed(NOTIFICATIONS, database)
        assert [(row["key"], row["reason"]) for row in found] == [(confirmed, "status_500"), (rejected, "status_410")]
        assert [row["key"] for row in listed(NOTIFICATIONS, database, "--reason", "status_410")] == [rejected]
        assert run(NOTIFICATIONS, database, "resend") == 2, "nothing is selected"
        assert run(NOTIFICATIONS, database, "resend", confirmed, "unknown:order_confirmed") == 1
        with Notifications(database, WebhookSender(hook.url)) as notifications:
            eventually(lambda: notifications.states("notifications") == {"sent": 1, "failed": 1})
            assert run(NOTIFICATIONS, database, "resend", "--all") == 0
            eventually(lambda: notifications.states("notifications") == {"sent": 2})
        assert hook.keys == [confirmed, rejected, confirmed, rejected]
        assert run(NOTIFICATIONS, database, "resend", "--all") == 0, "there is none"
        assert len(hook.posts) == 4


def test_what_was_sent_again_has_the_time_of_a_new_notification(database: str) -> None:
    prepare_service(database, "notifications")
    with webhook() as hook:
        fail_two(database, hook)
        query(database, "update notifications set created_at = now() - interval '30 days' returning 1")
        assert run(NOTIFICATIONS, database, "resend", "--all") == 0
        hook.statuses = [500] * 2
        with Notifications(database, WebhookSender(hook.url), min_attempts=1) as notifications:
            eventually(lambda: len(hook.posts) >= 4)
            eventually(lambda: notifications.states("notifications") == {"sent": 2})
