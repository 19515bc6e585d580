# SPDX-License-Identifier: Apache-2.0
"""Refuses requests of one operation when their head has arrived: under overload a refusal must cost little."""

from collections.abc import Callable, Iterable

from litestar.utils.path import normalize_path

from orderflow.http.problem_bytes import head_and_body
from orderflow.http.problems import ProblemType


class EarlyRefusal:
    """Refuses ``method path`` with ``problem`` while ``check`` says so.

    ``check`` returns the seconds for ``Retry-After``, or None when the request is to be handled. The event loop of the
    server asks it, before the client is known.
    """

    def __init__(self, method: str, path: str, problem: ProblemType, check: Callable[[], int | None]) -> None:
        self.method = method
        self.path = path
        self.status = problem.status
        self._check = check
        self._head, self._body = head_and_body(problem)

    def retry_after(self, method: str, path: str) -> int | None:
        """The seconds for ``Retry-After``, or None when the request is to be handled."""
        if method != self.method:
            return None
        if path != self.path and normalize_path(path) != self.path:  # as the router does, or a slash more would pass
            return None
        return self._check()

    def response(self, retry_after: int, headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
        """The whole response, with the server's own ``headers``. Nothing in it comes from the request."""
        parts = [self._head, b"retry-after: %d\r\n" % retry_after]
        parts += [b"%b: %b\r\n" % header for header in headers]
        parts += [b"\r\n" if keep_alive else b"connection: close\r\n\r\n", self._body]
        return b"".join(parts)
