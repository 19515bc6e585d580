# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's management API over HTTP: a few calls, for jobs and operators."""

import logging
from http import HTTPStatus
from threading import Event
from typing import Any
from urllib.parse import quote

import msgspec
import requests

from orderflow.messaging.backoff import Backoff
from orderflow.messaging.clock import Clock, SystemClock
from orderflow.messaging.errors import BrokerUnavailable, MessagingError

log = logging.getLogger(__name__)


class ManagementRefused(MessagingError):
    """The management API refused a call; ``status`` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the management API responded with {status}: {text[:500]}")
        self.status = status


class Management:
    """The management API of one broker, with the user and password in the URL."""

    def __init__(self, url: str, *, timeout_seconds: float = 30) -> None:
        self._base = f"{url.rstrip('/')}/api/"
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
        """Delete what is at a path, if it exists. ``condition`` is for example ``if-unused``.

        Raises ManagementRefused or BrokerUnavailable.
        """
        try:
            self._call("DELETE", path, query=f"?{condition}=true" if condition else "")
        except ManagementRefused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise

    def wait(self, seconds: float, *, clock: Clock | None = None) -> None:
        """Return once the broker responds; raises BrokerUnavailable after ``seconds``. Logs each wait."""
        clock = clock or SystemClock()
        deadline, backoff, never = clock.monotonic() + seconds, Backoff(first=0.5, maximum=5), Event()
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
        url = self._base + "/".join(quote(part, safe="") for part in path) + query
        headers = {"Content-Type": "application/json"}
        try:
            response = requests.request(method, url, data=body, headers=headers, timeout=self._timeout)
        except requests.RequestException as error:
            raise BrokerUnavailable(f"the management API cannot be reached: {error}") from error
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise BrokerUnavailable(f"the management API responded with {response.status_code}: {response.text[:200]}")
        if not response.ok:
            raise ManagementRefused(response.status_code, response.text)
        return response.content
