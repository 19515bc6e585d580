# SPDX-License-Identifier: Apache-2.0
"""The database of an HTTP API: a write or read returns in time or raises a problem.

A write is answered with 503 only when it is not carried out, and never will be. Once its commit has begun, the outcome
is waited for; when it does not arrive, the answer is 504, and the client must send the request again.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from orderflow.http.problems import DATABASE_UNAVAILABLE, OUTCOME_UNKNOWN, OVERLOADED, Problem
from orderflow.messaging.errors import CommitInDoubt, InfrastructureError
from orderflow.messaging.group_commit import Overloaded
from orderflow.messaging.service import Transaction

RESPONSE_SECONDS = 2.0
"""The longest time that a client waits for the database; then it is asked to send the request again."""
COMMIT_SECONDS = 2.0
"""How much longer it waits for the outcome of a commit that has begun."""
_NOT_DONE = "the request was not carried out: send it again"
Request_contra = TypeVar("Request_contra", contravariant=True)
Request = TypeVar("Request")
Result = TypeVar("Result")
Row = TypeVar("Row")


class Writer(Protocol[Request_contra, Result]):
    """Applies requests in another thread, for example ``GroupCommit``."""

    def submit(self, request: Request_contra, /) -> Future[Result]:
        """Queue a request; raises Overloaded when too many requests wait."""

    def withdraw(self, future: Future[Result], /) -> bool:
        """Give up a request: true when it is not applied and never will be, false when its commit has begun."""


class Reader(Protocol):
    """Runs queries in other threads, for example ``ReadPool``."""

    def submit(self, query: Callable[[Transaction], Row], /) -> Future[Row]:
        """Queue a query."""


class ApiDatabase(Generic[Request, Result]):
    """One writer and one reader, for the event loop of an API."""

    def __init__(self, writer: Writer[Request, Result], reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def write(self, request: Request) -> Result:
        """The result of a request, after its commit. The request is carried out even if its client disconnects.

        Raises Problem 429 when too many requests wait, 503 when the request was not carried out and never will be, and
        504 when that is not known.
        """
        try:
            future = self._writer.submit(request)
        except Overloaded:
            raise Problem(OVERLOADED) from None
        try:
            return await self._in_time(future)
        except CommitInDoubt:
            raise Problem(OUTCOME_UNKNOWN) from None
        except InfrastructureError:
            raise Problem(DATABASE_UNAVAILABLE, _NOT_DONE) from None

    async def _in_time(self, future: Future[Result]) -> Result:
        """The result; raises Problem when it does not arrive in time."""
        try:
            return await _wait(future, RESPONSE_SECONDS)
        except TimeoutError:
            if self._writer.withdraw(future):
                raise Problem(DATABASE_UNAVAILABLE, _NOT_DONE) from None
        try:
            return await _wait(future, COMMIT_SECONDS)
        except TimeoutError:
            raise Problem(OUTCOME_UNKNOWN) from None

    async def read(self, query: Callable[[Transaction], Row]) -> Row:
        """The result of a query; raises Problem 503 when it does not arrive in time."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._reader.submit(query)), RESPONSE_SECONDS)
        except (InfrastructureError, TimeoutError):
            raise Problem(DATABASE_UNAVAILABLE, "send the request again") from None


async def _wait(future: Future[Result], seconds: float) -> Result:
    """The result of a future, which is not cancelled when the caller is, or the time is over (TimeoutError)."""
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(_retrieved)
    await asyncio.wait((waiting,), timeout=seconds)
    if not waiting.done():
        raise TimeoutError
    return waiting.result()


def _retrieved(future: asyncio.Future[Result]) -> None:
    """Nobody may wait any more for an error, and asyncio would log that."""
    if not future.cancelled():
        future.exception()
