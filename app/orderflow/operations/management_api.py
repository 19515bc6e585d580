# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's management API over HTTP: a few calls, for jobs and operators."""

import base64
import http.client
import logging
import urllib.error
import urllib.request
from threading import Event
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.errors import BrokerUnavailable, MessagingError

log = logging.getLogger(__name__)


class ManagementRefused(MessagingError):
    """The management API answered no; ``status`` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the management API answered {status}: {text[:500]}")
        self.status = status


class Management:
    """One broker's management API, with the user and password that are in the URL."""

    def __init__(self, url: str, *, timeout_seconds: float = 30) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/api/"
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._authorization = "Basic " + base64.b64encode(login.encode()).decode()
        self._timeout = timeout_seconds

    def get(self, *path: str) -> bytes:
        """The JSON at a path, whose parts are quoted here; raises ManagementRefused or BrokerUnavailable."""
        return self._call("GET", path)

    def post(self, *path: str, body: bytes) -> None:
        """Send JSON to a path; raises ManagementRefused or BrokerUnavailable."""
        self._call("POST", path, body)

    def put(self, *path: str, body: Any) -> None:
        """Create or replace what is at a path; raises ManagementRefused or BrokerUnavailable."""
        self._call("PUT", path, msgspec.json.encode(body))

    def delete(self, *path: str, condition: str = "") -> None:
        """Delete what is at a path, ``condition`` for example ``if-unused``; absent already is fine."""
        try:
            self._call("DELETE", path, query=f"?{condition}=true" if condition else "")
        except ManagementRefused as refused:
            if refused.status != http.client.NOT_FOUND:
                raise

    def wait(self, seconds: float, *, clock: Clock | None = None) -> None:
        """Return once the broker answers; raises BrokerUnavailable after ``seconds``. Logs each wait."""
        clock = clock or SystemClock()
        deadline, backoff, never = clock.monotonic() + seconds, Backoff(first=0.5, most=5), Event()
        while True:
            try:
                self.get("overview")
            except BrokerUnavailable as error:
                if clock.monotonic() >= deadline:
                    raise
                left = round(deadline - clock.monotonic(), 1)
                log.info("broker.waiting", extra={"seconds_left": left, "error": str(error)})
                clock.wait(never, backoff.next())
            else:
                return

    def _call(self, method: str, path: tuple[str, ...], body: bytes | None = None, query: str = "") -> bytes:
        request = urllib.request.Request(  # noqa: S310 - settings admit http and https only
            self._base + "/".join(quote(part, safe="") for part in path) + query,
            data=body,
            method=method,
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code >= http.client.INTERNAL_SERVER_ERROR:
                raise BrokerUnavailable(f"the management API answered {error.code}: {text[:200]}") from error
            raise ManagementRefused(error.code, text) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise BrokerUnavailable(f"the management API cannot be reached: {error}") from error
