# SPDX-License-Identifier: Apache-2.0
"""The database of an HTTP API: a write or read returns in time or raises a problem."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from orderflow.http.problems import DATABASE_UNAVAILABLE, OVERLOADED, Problem
from orderflow.messaging.errors import InfrastructureError
from orderflow.messaging.group_commit import Overloaded
from orderflow.messaging.service import Transaction

RESPONSE_SECONDS = 2.0
"""The longest time that a client waits for the database; then it is asked to send the request again."""
Request_contra = TypeVar("Request_contra", contravariant=True)
Request = TypeVar("Request")
Result = TypeVar("Result")
Row = TypeVar("Row")


class Writer(Protocol[Request_contra, Result]):
    """Applies requests in another thread, for example ``GroupCommit``."""

    def submit(self, request: Request_contra, /) -> Future[Result]:
        """Queue a request; raises Overloaded when too many requests wait."""


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

        Raises Problem 429 when too many requests wait, and Problem 503 when the result is not known in time: the
        request may or may not be carried out then.
        """
        try:
            future = self._writer.submit(request)
        except Overloaded:
            raise Problem(OVERLOADED) from None
        detail = "the request may or may not have been carried out: send it again unchanged"
        return await _in_time(asyncio.shield(asyncio.wrap_future(future)), detail)

    async def read(self, query: Callable[[Transaction], Row]) -> Row:
        """The result of a query; raises Problem 503 when it does not arrive in time."""
        return await _in_time(asyncio.wrap_future(self._reader.submit(query)), "send the request again")


async def _in_time(result: Awaitable[Row], detail: str) -> Row:
    try:
        return await asyncio.wait_for(result, RESPONSE_SECONDS)
    except (InfrastructureError, TimeoutError):
        raise Problem(DATABASE_UNAVAILABLE, detail) from None
