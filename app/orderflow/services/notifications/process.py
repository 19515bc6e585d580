# SPDX-License-Identifier: Apache-2.0
"""The process of notifications."""

from orderflow.messaging.clock import Clock
from orderflow.messaging.service import Handler
from orderflow.runtime import ProcessDeclaration, Runtime
from orderflow.services.notifications.senders import MAX_CONCURRENT_SENDS, LogSender, Sender, SmtpSender, WebhookSender
from orderflow.settings import Settings


def build_notifications(runtime: Runtime) -> None:
    """A consumer that records notifications, and a runner that sends them."""
    from orderflow.services.notifications.effects import NotificationEffect
    from orderflow.services.notifications.handlers import NotificationRequests
    from orderflow.services.notifications.notification_retention import (
        RetiredNotifications,
        RetiredOtherNotifications,
        recent_events,
    )

    days = runtime.settings.retention_days
    sender = _sender(runtime.settings, runtime.clock)
    notifications = runtime.effect_runner(
        "notify",
        NotificationEffect(
            sender,
            instrumentation=runtime.instrumentation,
            retry_seconds=runtime.settings.notification_retry_hours * 3600,
        ),
        concurrency=MAX_CONCURRENT_SENDS,
        lease_seconds=sender.longest_seconds + 10,
    )

    def handler() -> Handler:
        return recent_events(NotificationRequests(notifications.wake), retention_days=days)

    runtime.add(*runtime.consumers("notification_requests", handler))
    if days:
        retired = (RetiredNotifications(days=days), RetiredOtherNotifications(days=days))
        runtime.add(runtime.pruner("prune notifications", *retired))
    runtime.add(notifications)


def _sender(settings: Settings, clock: Clock) -> Sender:
    if settings.notification_sender == "webhook":
        return WebhookSender(settings.notification_webhook_url)
    if settings.notification_sender == "smtp":
        return SmtpSender(
            settings.notification_smtp_url,
            mail_from=settings.notification_mail_from,
            mail_to=settings.notification_mail_to,
            clock=clock,
        )
    return LogSender()


PROCESSES = {
    "notifications": ProcessDeclaration(
        build=build_notifications,
        areas=("consuming", "publishing", "notifications", "calling"),  # it publishes retries and dead letters
    ),
}
