# SPDX-License-Identifier: Apache-2.0
"""Notifications on a real database, with receivers that do what a test tells them."""

import json
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from orderflow.messages import Event
from orderflow.messaging.attempt import Attempt, Verdicts
from orderflow.messaging.clock import SystemClock
from orderflow.messaging.codec import Codec
from orderflow.messaging.database import Database
from orderflow.messaging.effects import Effecting
from orderflow.messaging.hooks import BatchSpan, CallSpan, Hooks
from orderflow.messaging.inbox import Inbox
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.unit_of_work import UnitOfWork
from orderflow.services.moments import Moments
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.notifications.handlers import NotificationRequests
from orderflow.services.notifications.sender import Sender
from orderflow.services.notifications.sending import MOST_ATTEMPTS, Notifying, Result
from orderflow.services.notifications.store import Sending
from tests.fakes import ScriptedPublisher, deliver
from tests.payments_rig import TRACE, CountingUnitOfWork
from tests.rig import query

CODEC = Codec(app_id="notifications")


class Traced(BatchSpan):
    """A batch whose messages all belong to one trace."""

    def headers(self, position: int) -> dict[str, str]:
        return TRACE


class Passing(Hooks):
    """Sends the stored trace headers along."""

    def calling(self, operation: str, trace: Any) -> CallSpan:
        class Span(CallSpan):
            def headers(self) -> Any:
                return trace

        return Span()


class Watch(Moments):
    """Counts notifications by kind and outcome."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def notification(self, kind: str, outcome: str) -> None:
        self.outcomes[kind, outcome] += 1


class Notifications:
    """The notifications service without a broker: ``receive`` is its consumer, the context does its sending."""

    def __init__(self, url: str, sender: Sender, *, most_attempts: int = MOST_ATTEMPTS, concurrency: int = 32) -> None:
        self.url = url
        self.watch = Watch()
        self.work = CountingUnitOfWork(Database(url), self._outbox())
        self.effecting = Effecting[Sending, Result](
            "notifications",
            Notifying(sender, hooks=Passing(), moments=self.watch, most_attempts=most_attempts),
            self.work,
            clock=SystemClock(),
            concurrency=concurrency,
            lease_seconds=30,
        )
        self._attempt = Attempt(
            handler=NotificationRequests(self.effecting.wake),
            accepted=NOTIFICATIONS.queues[0].events,
            codec=CODEC,
            inbox=Inbox("notification_requests"),
            unit_of_work=UnitOfWork(Database(url), self._outbox()),
        )
        self._thread = threading.Thread(target=self.effecting.run, name="notifications")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.effecting.stop()
        self._thread.join(20)
        self._attempt.unit_of_work.close()
        assert not self._thread.is_alive()

    def close(self) -> None:
        """Give the connections back; for a service that was never started."""
        self.work.close()
        self._attempt.unit_of_work.close()

    def receive(self, *events: Event) -> Verdicts:
        """Take one batch of messages, as the consumer would."""
        return self._attempt([deliver(event) for event in events], Traced())

    def states(self) -> Counter[str]:
        """How many notifications are in each state."""
        return Counter(state for (state,) in query(self.url, "select state from notifications"))

    def _outbox(self) -> Outbox:
        return Outbox(ScriptedPublisher(), CODEC, lease_seconds=60)


class Webhook:
    """Takes posts and answers them with these statuses in turn, then with 204."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.statuses: list[int] = []
        self.posts: list[tuple[dict[str, str], dict[str, Any]]] = []

    @property
    def keys(self) -> Sequence[str]:
        return [headers["Idempotency-Key"] for headers, _ in self.posts]


@contextmanager
def webhook() -> Generator[Webhook]:
    """A receiver on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.posts.append((dict(self.headers), body))
            self.send_response(hook.statuses.pop(0) if hook.statuses else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - named by its superclass

    class Server(ThreadingHTTPServer):
        request_queue_size = 300  # a burst connects all at once
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    hook = Webhook(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
