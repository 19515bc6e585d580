# SPDX-License-Identifier: Apache-2.0
import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from email.message import Message
from typing import Any
from uuid import uuid4

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler

from local.eventually import eventually
from orderflow.events import OrderCancelled, OrderConfirmed, OrderRejected, PaymentRefunded, StockLow
from orderflow.messaging.clock import SystemClock
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.notifications.effects import NotificationEffect
from orderflow.services.notifications.senders import (
    MAX_CONCURRENT_SENDS,
    LogSender,
    SendFailed,
    SmtpSender,
    WebhookSender,
)
from tests.builders import an_event
from tests.rigs.consumer import query
from tests.rigs.effects import TRACE
from tests.rigs.instances import Member
from tests.rigs.notifications import Notifications, Webhook, webhook
from tests.rigs.payments import free_port
from tests.rigs.service_database import prepare_service

pytestmark = pytest.mark.integration


@pytest.fixture
def url(database: str) -> str:
    prepare_service(database, "notifications")
    return database


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as hook:
        yield hook


class Mailbox(MessageHandler):
    """Keeps the mails that it accepts, and refuses the first ``refusals``."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[tuple[Message, list[str]]] = []
        self.refusals = 0
        self.gathering = 0
        """How many mails must be in progress concurrently before any is accepted."""
        self._under_way = 0
        self._gathered = asyncio.Event()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the name that aiosmtpd calls
        self._under_way += 1
        if self._under_way >= self.gathering:
            self._gathered.set()
        await self._gathered.wait()
        if self.refusals:
            self.refusals -= 1
            return "451 come back later"
        return await super().handle_DATA(server, session, envelope)

    def handle_message(self, message: Message) -> None:
        self.mails.append((message, str(message["X-RcptTo"]).split(", ")))


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield mailbox, f"smtp://127.0.0.1:{controller.port}"
    controller.stop()


def mailing(server: str, mail_to: str = "{user_id}@example.com") -> SmtpSender:
    return SmtpSender(server, mail_from="shop@example.com", mail_to=mail_to, clock=SystemClock())


def test_no_mail_waits_for_another(url: str, mailbox: tuple[Mailbox, str]) -> None:
    box, server = mailbox
    box.gathering = MAX_CONCURRENT_SENDS
    with Notifications(url, mailing(server), concurrency=MAX_CONCURRENT_SENDS) as notifications:
        notifications.receive(*(an_event(OrderConfirmed, order_id=uuid4()) for _ in range(MAX_CONCURRENT_SENDS)))
        eventually(lambda: notifications.states("notifications") == {"sent": MAX_CONCURRENT_SENDS}, 20)
    assert len(box.mails) == MAX_CONCURRENT_SENDS


def test_the_sends_of_a_process_that_is_gone_are_due_before_their_lease_ends(url: str, hook: Webhook) -> None:
    dead = Notifications(url, WebhookSender(hook.url))
    dead.receive(an_event(OrderConfirmed), an_event(OrderRejected))
    with dead.work.transaction() as claiming:
        assert len(dead.effects.claim(claiming, limit=10, lease=timedelta(hours=1))) == 2
    with Member(url, service="notifications", tables=NOTIFICATIONS.leased) as survivor:
        assert survivor.sweep_for(5) == 0
        dead.close()
        eventually(lambda: survivor.sweep_for(5) == 2, what="a take-over")
    with Notifications(url, WebhookSender(hook.url)) as notifications:
        eventually(lambda: notifications.states("notifications") == {"sent": 2})


def test_every_kind_is_posted_once_with_its_key_and_its_trace(url: str, hook: Webhook) -> None:
    kinds = (OrderConfirmed, OrderRejected, OrderCancelled, PaymentRefunded, StockLow)
    with Notifications(url, WebhookSender(hook.url)) as notifications:
        notifications.receive(*(an_event(kind) for kind in kinds))
        eventually(lambda: notifications.states("notifications") == {"sent": 5})
    posted = {body["kind"]: (headers, body) for headers, body in hook.posts}
    assert len(hook.posts) == len(posted) == 5
    headers, body = posted["order_confirmed"]
    assert headers["Idempotency-Key"] == f"{body['subject']}:order_confirmed"
    assert headers["traceparent"] == TRACE["traceparent"]
    assert body["details"]["user_id"] == "customer-1"
    assert body["subject"] in body["text"]
    assert notifications.recorded.outcomes == {(kind, "sent"): 1 for kind in posted}


def test_a_notification_is_sent_once_whatever_message_requests_it(url: str, hook: Webhook) -> None:
    event = an_event(OrderConfirmed)
    with Notifications(url, WebhookSender(hook.url)) as notifications:
        notifications.receive(event, event)
        eventually(lambda: notifications.states("notifications") == {"sent": 1})
        notifications.receive(event)
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: notifications.states("notifications") == {"sent": 2})
    assert len(hook.posts) == 2


def test_a_receiver_that_fails_is_tried_again_with_the_same_key(url: str, hook: Webhook) -> None:
    hook.statuses = [500, 429]
    with Notifications(url, WebhookSender(hook.url)) as notifications:
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: notifications.states("notifications") == {"sent": 1})
    assert len(hook.keys) == 3
    assert len(set(hook.keys)) == 1
    assert notifications.recorded.outcomes == {("order_confirmed", "retried"): 2, ("order_confirmed", "sent"): 1}


def test_a_notification_that_is_never_accepted_fails_and_is_counted(
    url: str, hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.statuses = [500] * 2
    with Notifications(url, WebhookSender(hook.url), min_attempts=2, retry_seconds=0) as notifications:
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: notifications.states("notifications") == {"failed": 1})
    assert len(hook.posts) == 2
    assert query(url, "select reason, due_at, attempts from notifications") == [("status_500", None, 2)]
    assert notifications.recorded.outcomes["order_confirmed", "failed"] == 1
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == ["notification.failed"]


def test_a_receiver_that_cannot_be_reached_is_tried_again(url: str) -> None:
    with Notifications(url, WebhookSender(f"http://127.0.0.1:{free_port()}/")) as notifications:
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: notifications.recorded.outcomes["order_confirmed", "retried"])
    assert query(url, "select state, reason from notifications") == [("pending", "unreachable")]


def test_a_redirect_is_not_followed(url: str, hook: Webhook) -> None:
    hook.statuses = [302]
    with Notifications(url, WebhookSender(hook.url), min_attempts=1, retry_seconds=0) as notifications:
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: notifications.states("notifications") == {"failed": 1})
    assert query(url, "select reason from notifications") == [("status_302",)]


def test_a_mail_reaches_the_customer_and_keeps_its_id_when_it_is_sent_again(
    url: str, mailbox: tuple[Mailbox, str]
) -> None:
    box, server = mailbox
    box.refusals = 1
    event = an_event(OrderConfirmed, total_amount=4200)
    with Notifications(url, mailing(server)) as notifications:
        notifications.receive(event)
        eventually(lambda: notifications.states("notifications") == {"sent": 1})
    ((mail, recipients),) = box.mails
    assert recipients == ["customer-1@example.com"]
    assert mail["Subject"] == "Your order is confirmed"
    assert mail["Message-ID"] == f"<{event.order_id}.order_confirmed@orderflow>"
    assert "42.00 EUR" in str(mail.get_payload())
    assert notifications.recorded.outcomes["order_confirmed", "retried"] == 1
    assert query(url, "select reason from notifications") == [(None,)]


def test_what_concerns_no_customer_is_mailed_to_the_operator(url: str, mailbox: tuple[Mailbox, str]) -> None:
    box, server = mailbox
    with Notifications(url, mailing(server)) as notifications:
        notifications.receive(an_event(StockLow))
        eventually(lambda: box.mails)
    assert box.mails[0][1] == ["shop@example.com"]


@pytest.mark.parametrize(
    "user_id", ["a@evil.example, b", "a\r\nBcc: evil@evil.example", "a <b@evil.example>", "a b", "é", "a\r\n", '"']
)
def test_a_customers_name_cannot_add_recipients_or_headers(
    url: str, mailbox: tuple[Mailbox, str], user_id: str
) -> None:
    box, server = mailbox
    with Notifications(url, mailing(server), min_attempts=1, retry_seconds=0) as notifications:
        notifications.receive(an_event(OrderConfirmed, user_id=user_id), an_event(OrderConfirmed))
        eventually(lambda: notifications.states("notifications") == {"failed": 1, "sent": 1})
    assert [recipients for _, recipients in box.mails] == [["customer-1@example.com"]]
    assert query(url, "select reason from notifications where state = 'failed'") == [("invalid_address",)]


def test_a_password_is_not_sent_without_encryption(url: str, mailbox: tuple[Mailbox, str]) -> None:
    box, server = mailbox
    sender = mailing(server.replace("smtp://", "smtp://shop:secret@"))
    with Notifications(url, sender, min_attempts=1, retry_seconds=0) as notifications:
        notifications.receive(an_event(OrderConfirmed))
        eventually(lambda: notifications.states("notifications") == {"failed": 1})
    assert box.mails == []


def test_the_log_names_the_order_and_not_the_customer(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    event = an_event(OrderConfirmed, user_id="somebody-private")
    with Notifications(url, LogSender()) as notifications:
        notifications.receive(event)
        eventually(lambda: notifications.states("notifications") == {"sent": 1})
    (record,) = [record for record in caplog.records if record.message == "notification.sent"]
    assert record.__dict__["subject"] == str(event.order_id)
    assert not any("somebody-private" in str(record.__dict__) for record in caplog.records)


def test_a_result_that_is_recorded_twice_counts_once_and_never_undoes_a_send(url: str) -> None:
    notifications = Notifications(url, LogSender())
    notifications.receive(an_event(OrderConfirmed))
    effects = NotificationEffect(LogSender(), instrumentation=notifications.recorded)
    with notifications.work.transaction() as work:
        (task,) = effects.claim(work, limit=10, lease=timedelta(seconds=30))
    for result in (None, None, SendFailed("late")):
        with notifications.work.transaction() as work:
            effects.record(work, [(task, result)])
    notifications.close()
    assert notifications.states("notifications") == {"sent": 1}
    assert notifications.recorded.outcomes == {("order_confirmed", "sent"): 1}


def test_a_batch_of_250_costs_few_statements(url: str) -> None:
    with Notifications(url, LogSender(), concurrency=250) as notifications:
        eventually(lambda: notifications.work.statements)
        before = notifications.work.statements
        progress = notifications.receive(*[an_event(OrderConfirmed) for _ in range(250)])
        eventually(lambda: notifications.states("notifications") == {"sent": 250})
        sending = notifications.work.statements - before
    assert progress.outcomes.statements == 4  # begin, inbox, notifications, commit
    assert sending / 250 < 0.25, f"{sending} statements for 250 notifications"


def test_a_burst_is_posted_without_losing_or_doubling_one(url: str, hook: Webhook) -> None:
    with Notifications(url, WebhookSender(hook.url), concurrency=250) as notifications:
        notifications.receive(*[an_event(OrderConfirmed) for _ in range(250)])
        eventually(lambda: notifications.states("notifications") == {"sent": 250})
    assert len(hook.keys) == len(set(hook.keys)) == 250
