# SPDX-License-Identifier: Apache-2.0
"""Writes and reads of an API: they respond in time, and what is answered with 503 is not carried out."""

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import pytest
from litestar import Litestar

from local.eventually import deadline
from orderflow.http import api_database
from orderflow.http.api_database import ApiDatabase
from orderflow.http.problems import Problem
from orderflow.instrumentation import Instrumentation
from orderflow.messaging.clock import ManualClock
from orderflow.messaging.errors import BadData, CommitInDoubt, DatabaseUnavailable
from orderflow.messaging.group_commit import Overloaded
from orderflow.services.inventory.api import StockApi
from orderflow.services.inventory.store import Stock
from orderflow.services.orders.admission import Admission
from orderflow.services.orders.api import OrdersApi
from orderflow.services.orders.place_orders import Placed


class Submitted:
    """A writer and a reader whose result the test sets; ``committing`` requests cannot be withdrawn."""

    def __init__(self, *, committing: bool = False) -> None:
        self.future: Future[Any] = Future()
        self.requests: list[Any] = []
        self.withdrawn: list[Future[Any]] = []
        self._committing = committing

    def submit(self, request: Any, /) -> Future[Any]:
        self.requests.append(request)
        return self.future

    def withdraw(self, future: Future[Any], /) -> bool:
        self.withdrawn.append(future)
        return not self._committing


class FullWriter:
    """A writer that accepts no request."""

    def submit(self, _request: Any, /) -> Future[Any]:
        raise Overloaded("full")

    def withdraw(self, future: Future[Any], /) -> bool:
        raise AssertionError(future)


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_database, "RESPONSE_SECONDS", 0.05)
    monkeypatch.setattr(api_database, "COMMIT_SECONDS", 0.05)


def outcome(call: Callable[[ApiDatabase[Any, Any]], Any], submitted: Submitted) -> tuple[int, str, str | None]:
    """Status, type and Retry-After of the problem that a call raises."""

    async def main() -> None:
        await call(ApiDatabase(submitted, submitted))

    with pytest.raises(Problem) as raised:
        asyncio.run(main())
    problem = raised.value
    return problem.status_code, problem.kind.word, (problem.headers or {}).get("Retry-After")


def write(database: ApiDatabase[Any, Any]) -> Any:
    return database.write("request")


def read(database: ApiDatabase[Any, Any]) -> Any:
    return database.read(lambda _: None)


@pytest.mark.parametrize("call", [write, read])
def test_a_result_is_returned(call: Callable[[ApiDatabase[Any, Any]], Any]) -> None:
    async def main() -> Any:
        submitted = Submitted()
        submitted.future.set_result("result")
        return await call(ApiDatabase(submitted, submitted))

    assert asyncio.run(main()) == "result"


@pytest.mark.parametrize("call", [write, read])
def test_a_database_that_does_not_respond_is_a_503(call: Callable[[ApiDatabase[Any, Any]], Any]) -> None:
    failing, silent = Submitted(), Submitted()
    failing.future.set_exception(DatabaseUnavailable("gone"))
    expected = (503, "database-unavailable", "1")
    assert (outcome(call, failing), outcome(call, silent)) == (expected, expected)


def test_too_many_waiting_writes_are_a_429() -> None:
    async def main() -> None:
        await ApiDatabase(FullWriter(), Submitted()).write("request")

    with pytest.raises(Problem) as raised:
        asyncio.run(main())
    assert (raised.value.kind.word, raised.value.headers) == ("overloaded", {"Retry-After": "1"})


def test_an_error_that_concerns_the_request_is_passed_on() -> None:
    submitted = Submitted()
    submitted.future.set_exception(BadData("value"))

    async def main() -> None:
        await ApiDatabase(submitted, submitted).write("request")

    with pytest.raises(BadData):
        asyncio.run(main())


def test_an_abandoned_read_is_dropped_and_an_abandoned_write_is_withdrawn() -> None:
    reads, writes = Submitted(), Submitted()
    outcome(read, reads)
    outcome(write, writes)
    assert reads.future.cancelled()
    assert writes.withdrawn == [writes.future]


def test_a_write_whose_outcome_is_not_known_is_a_504() -> None:
    failed, silent = Submitted(), Submitted(committing=True)
    failed.future.set_exception(CommitInDoubt("gone"))
    expected = (504, "outcome-unknown", "1")
    assert (outcome(write, failed), outcome(write, silent)) == (expected, expected)


def test_the_outcome_of_a_commit_that_has_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_database, "COMMIT_SECONDS", 60)
    writer = Submitted(committing=True)

    async def main() -> Any:
        writing = asyncio.ensure_future(ApiDatabase(writer, Submitted()).write("request"))
        async with deadline(30, what="the writer is asked"):
            while not writer.withdrawn:
                await asyncio.sleep(0)
        writer.future.set_result("late")
        return await writing

    assert asyncio.run(main()) == "late"


def orders(writer: Submitted) -> Litestar:
    return OrdersApi(
        database=ApiDatabase(writer, Submitted()),
        keys=None,
        instrumentation=Instrumentation(),
        admission=Admission(limit_seconds=10, clock=ManualClock(), instrumentation=Instrumentation()),
    ).app()


def stock(writer: Submitted) -> Litestar:
    return StockApi(database=ApiDatabase(writer, Submitted()), keys=None).app()


ORDER = ("POST", "/v1/orders", b'{"user_id": "u", "items": [{"sku": "a", "quantity": 1}], "payment_token": "ok"}')
STOCK = ("PUT", "/v1/stock/a", b'{"on_hand": 1, "unit_price": 1, "currency": "EUR"}')


@pytest.mark.parametrize(
    ("app", "request_line", "result"),
    [(orders, ORDER, Placed(b"{}")), (stock, STOCK, Stock("a", 1, 1, 0, 0, 1, "EUR", 1))],
)
def test_a_write_continues_when_its_client_disconnects(
    app: Callable[[Submitted], Litestar], request_line: tuple[str, str, bytes], result: Any
) -> None:
    method, path, body = request_line
    writer, sent = Submitted(), list[Any]()
    headers = [(b"content-type", b"application/json"), (b"idempotency-key", str(UUID(int=1)).encode())]
    scope: Any = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        running = asyncio.ensure_future(app(writer)(scope | {"raw_path": path.encode()}, receive, send))
        async with deadline(30, what="the request reaches the writer"):
            while not writer.requests:
                assert not running.done(), sent
                await asyncio.sleep(0)
        running.cancel()
        async with deadline(30, what="the request ends when its client is gone"):
            await asyncio.wait([running])
        assert running.cancelled()

    asyncio.run(main())
    writer.future.set_result(result)  # as GroupCommit does after the commit; a cancelled future would raise
    assert (len(writer.requests), sent) == (1, [])


def test_an_error_that_comes_too_late_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        submitted = Submitted()
        with pytest.raises(Problem):
            await ApiDatabase(submitted, submitted).write("request")
        submitted.future.set_exception(DatabaseUnavailable("away"))
        for _ in range(5):  # the loop takes the error over
            await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()  # asyncio logs an error that nobody has retrieved when its future is deleted
    assert caplog.records == []
