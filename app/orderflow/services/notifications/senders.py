# SPDX-License-Identifier: Apache-2.0
"""Sends notifications: to the log, to a webhook, or by mail."""

import asyncio
import logging
import smtplib
import ssl
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec

from orderflow.messaging.clock import Clock
from orderflow.services.notifications.domain import Notification, text

log = logging.getLogger(__name__)


MAX_CONCURRENT_SENDS = 32
TIMEOUT, UNREACHABLE = "timeout", "unreachable"
INVALID_ADDRESS = "invalid_address"
NO_RESPONSE = frozenset({TIMEOUT, UNREACHABLE})
"""Reasons of a send without any response."""


class SendFailed(Exception):
    """The receiver did not accept a notification; ``reason`` is one word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Sender(Protocol):
    """Sends notifications. A notification may be sent again; the receiver recognises it by its key.

    Up to ``MAX_CONCURRENT_SENDS`` run concurrently; none takes longer than ``longest_seconds``.
    """

    @property
    def longest_seconds(self) -> float:
        """The longest time that one send can take."""

    def connections(self) -> AbstractAsyncContextManager[object]:
        """The connections that the sends share; entered in their event loop before the first send."""

    async def send(self, notification: Notification, trace: Mapping[str, str]) -> None:
        """Return when the receiver has accepted it; raises SendFailed otherwise, even without a response."""


class LogSender:
    """Writes one log line for each notification, without the customer's name."""

    longest_seconds = 1.0

    def connections(self) -> AbstractAsyncContextManager[object]:
        """No connection is needed."""
        return nullcontext()

    async def send(self, notification: Notification, trace: Mapping[str, str]) -> None:  # noqa: ARG002
        """Write the line."""
        log.info("notification.sent", extra={"kind": notification.kind, "subject": notification.subject})


class WebhookSender:
    """Posts each notification as JSON, with ``Idempotency-Key``; any 2xx means accepted."""

    def __init__(self, url: str, *, timeout_seconds: float = 5) -> None:
        self.longest_seconds = timeout_seconds
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession

    @asynccontextmanager
    async def connections(self) -> AsyncGenerator[object]:
        """Opens a pool of kept-alive connections."""
        async with aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            yield self

    async def send(self, notification: Notification, trace: Mapping[str, str]) -> None:
        """Post once; redirects are not followed."""
        words = text(notification)
        body = msgspec.json.encode(
            {
                "kind": notification.kind,
                "subject": notification.subject,
                "title": words.title,
                "text": words.body,
                "details": notification.payload,
            }
        )
        headers = {**trace, "Idempotency-Key": notification.key, "Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except TimeoutError as error:
            raise SendFailed(TIMEOUT) from error
        except aiohttp.ClientError as error:
            raise SendFailed(UNREACHABLE) from error
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise SendFailed(f"status_{status}")


_STEPS = 12
"""Connect, greeting, EHLO, STARTTLS, EHLO again, login (three), MAIL, RCPT, DATA, the mail itself."""


class SmtpSender:
    """Mails each notification; ``smtps://`` uses TLS from the start, ``smtp://`` uses STARTTLS where it is offered.

    With a user in the URL it logs in, over TLS only. ``{user_id}`` in ``mail_to`` is replaced by the customer; a
    notification without a customer goes to ``mail_from``. The Message-ID is the same for every attempt.
    ``timeout_seconds`` applies to each of the twelve steps of the SMTP session.
    """

    def __init__(self, url: str, *, mail_from: str, mail_to: str, clock: Clock, timeout_seconds: float = 10) -> None:
        self.longest_seconds = _STEPS * timeout_seconds
        self._server = urlsplit(url)
        self._from = mail_from
        self._to = mail_to
        self._clock = clock
        self._timeout = timeout_seconds
        self._threads: ThreadPoolExecutor

    @asynccontextmanager
    async def connections(self) -> AsyncGenerator[object]:
        """A thread and a connection for each mail, so that none waits for another."""
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_SENDS, thread_name_prefix="mail")
        try:
            yield self
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, notification: Notification, trace: Mapping[str, str]) -> None:  # noqa: ARG002
        """Mail once, in a thread."""
        try:
            mail = self._mail(notification)
        except (ValueError, IndexError, MessageError) as error:
            raise SendFailed(INVALID_ADDRESS) from error
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._deliver, mail)
        except smtplib.SMTPResponseException as error:
            raise SendFailed(f"smtp_{error.smtp_code}") from error
        except smtplib.SMTPRecipientsRefused as error:
            raise SendFailed("recipient_refused") from error
        except TimeoutError as error:
            raise SendFailed(TIMEOUT) from error
        except (smtplib.SMTPException, OSError) as error:
            raise SendFailed(UNREACHABLE) from error

    def _mail(self, notification: Notification) -> EmailMessage:
        user_id = notification.payload.get("user_id")
        words = text(notification)
        mail = EmailMessage()
        mail["From"] = self._from
        # Parsed as one address, because a comma in a user id would add a recipient.
        mail["To"] = self._from if user_id is None else Address(addr_spec=self._to.replace("{user_id}", str(user_id)))
        mail["Subject"] = words.title
        mail["Date"] = format_datetime(self._clock.now())
        mail["Message-ID"] = f"<{notification.key.replace(':', '.')}@orderflow>"
        mail.set_content(words.body + "\n")
        return mail

    def _deliver(self, mail: EmailMessage) -> None:
        host, port, secure = self._server.hostname or "", self._server.port or 0, self._server.scheme == "smtps"
        context = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(host, port, timeout=self._timeout, context=context)
            if secure
            else smtplib.SMTP(host, port, timeout=self._timeout)
        ) as connection:
            connection.ehlo_or_helo_if_needed()
            if not secure and connection.has_extn("starttls"):
                connection.starttls(context=context)
                secure = True
            if self._server.username:
                if not secure:
                    raise smtplib.SMTPNotSupportedError("a password is only sent over TLS")
                connection.login(unquote(self._server.username), unquote(self._server.password or ""))
            connection.send_message(mail)
