# SPDX-License-Identifier: Apache-2.0
"""Notifications on a real database, with receivers whose responses a test sets."""

import json
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from orderflow.instrumentation import Instrumentation
from orderflow.messaging.instrumentation import CallObserver
from orderflow.services.notifications import NOTIFICATIONS
from orderflow.services.notifications.effects import MIN_ATTEMPTS, RETRY_SECONDS, NotificationEffect
from orderflow.services.notifications.handlers import NotificationRequests
from orderflow.services.notifications.senders import Sender
from tests.rigs.effects import EffectsRig


class RecordedNotifications(Instrumentation):
    """Counts notifications by kind and outcome, and sends the stored trace headers with each call."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def calling(self, operation: str, trace: Any) -> CallObserver:
        class Span(CallObserver):
            def headers(self) -> Any:
                return trace

        return Span()

    def notification(self, kind: str, outcome: str) -> None:
        self.outcomes[kind, outcome] += 1


class Notifications(EffectsRig):
    """The notifications service without a broker."""

    def __init__(
        self,
        url: str,
        sender: Sender,
        *,
        min_attempts: int = MIN_ATTEMPTS,
        retry_seconds: float = RETRY_SECONDS,
        concurrency: int = 32,
    ) -> None:
        self.recorded = RecordedNotifications()
        self.effects = NotificationEffect(
            sender, instrumentation=self.recorded, min_attempts=min_attempts, retry_seconds=retry_seconds
        )
        super().__init__(
            NOTIFICATIONS, url, self.effects, NotificationRequests, concurrency=concurrency, lease_seconds=30
        )


class Webhook:
    """Receives posts and responds with these statuses in turn, then with 204."""

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
        request_queue_size = 300  # a burst opens all connections together
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
