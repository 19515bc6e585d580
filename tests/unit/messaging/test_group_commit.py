# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, cast

import pytest

from local.eventually import eventually
from orderflow.messaging.clock import ManualClock, SystemClock
from orderflow.messaging.errors import BadData, CommitInDoubt, DatabaseUnavailable, TransactionAborted
from orderflow.messaging.group_commit import GroupCommit, Overloaded
from orderflow.messaging.publish.unit_of_work import SqlUnitOfWork, UnitOfWorkFactory


class ListTable:
    """A unit of work factory whose table is a list; a transaction adds all of its rows, or none."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.commits: list[int] = []
        self.fail_commit: list[Exception] = []
        self.closed = False
        self.outbox = self

    @contextmanager
    def transaction(self, *, before_commit: Callable[[], None]) -> Generator[list[str]]:
        work: list[str] = []
        yield work
        before_commit()
        if self.fail_commit:
            raise self.fail_commit.pop(0)
        self.rows += work
        self.commits.append(len(work))

    def delete_confirmed(self) -> None: ...

    def wait(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


Apply = Callable[[Sequence[str], SqlUnitOfWork], Sequence[str]]


def record(requests: Sequence[str], work: SqlUnitOfWork) -> Sequence[str]:
    """Add every request to the table; ``bad`` is refused as bad data, ``bug`` raises another error."""
    if "bad" in requests:
        raise BadData("refused")
    if "bug" in requests:
        raise ZeroDivisionError
    cast("list[str]", work).extend(requests)
    return [f"{request} done" for request in requests]


def writer(
    table: ListTable, apply: Apply = record, *, group_size: int = 100, max_waiting: int = 2000
) -> GroupCommit[str, str]:
    return GroupCommit(
        cast("UnitOfWorkFactory", table), apply, clock=SystemClock(), group_size=group_size, max_waiting=max_waiting
    )


def submitted_then_run(group_commit: GroupCommit[str, str], *requests: str) -> list[Any]:
    """Submit, stop, run to the end: each request's result, or its error."""
    futures = [group_commit.submit(request) for request in requests]
    group_commit.stop()
    group_commit.run()
    return [future.exception(0) or future.result(0) for future in futures]


def test_requests_that_wait_share_transactions() -> None:
    table = ListTable()
    results = submitted_then_run(writer(table, group_size=100), *map(str, range(250)))
    assert results == [f"{number} done" for number in range(250)]
    assert table.commits == [100, 100, 50]
    assert table.closed


def test_a_request_that_the_database_refuses_fails_alone() -> None:
    table = ListTable()
    a, bad, b, c = submitted_then_run(writer(table), "a", "bad", "b", "c")
    assert (a, b, c) == ("a done", "b done", "c done")
    assert isinstance(bad, BadData)
    assert table.rows == ["a", "b", "c"]


def test_a_bug_met_by_one_request_fails_that_request_alone() -> None:
    table = ListTable()
    a, bug, bad, b = submitted_then_run(writer(table), "a", "bug", "bad", "b")
    assert (a, b) == ("a done", "b done")
    assert isinstance(bug, ZeroDivisionError)
    assert isinstance(bad, BadData)
    assert table.rows == ["a", "b"]


def test_without_a_database_every_request_of_the_group_fails_and_the_next_group_is_tried() -> None:
    table = ListTable()
    table.fail_commit = [DatabaseUnavailable("gone")]
    a, b, c = submitted_then_run(writer(table, group_size=2), "a", "b", "c")
    assert isinstance(a, DatabaseUnavailable)
    assert isinstance(b, DatabaseUnavailable)
    assert c == "c done"


def test_results_committed_before_an_outage_stay_valid() -> None:
    table = ListTable()

    def apply(requests: Sequence[str], work: SqlUnitOfWork) -> Sequence[str]:
        if requests == ["c", "d"]:
            raise DatabaseUnavailable("gone")
        return record(requests, work)

    a, bad, c, d = submitted_then_run(writer(table, apply), "a", "bad", "c", "d")
    assert a == "a done"
    assert isinstance(bad, BadData)
    assert isinstance(c, DatabaseUnavailable)
    assert isinstance(d, DatabaseUnavailable)
    assert table.rows == ["a"]


def test_an_aborted_transaction_is_done_again_at_once() -> None:
    table = ListTable()
    table.fail_commit = [TransactionAborted("deadlock")] * 4
    assert submitted_then_run(writer(table), "a", "b") == ["a done", "b done"]
    assert table.rows == ["a", "b"]


def test_after_five_aborts_in_a_row_the_requests_fail() -> None:
    table = ListTable()
    table.fail_commit = [TransactionAborted("deadlock")] * 5
    (result,) = submitted_then_run(writer(table), "a")
    assert isinstance(result, TransactionAborted)
    assert table.rows == []


def test_results_that_do_not_match_the_requests_roll_back() -> None:
    table = ListTable()

    def apply(requests: Sequence[str], work: SqlUnitOfWork) -> Sequence[str]:
        return [*record(requests, work), "one too many"]

    results = submitted_then_run(writer(table, apply), "a", "b")
    assert [type(result) for result in results] == [RuntimeError, RuntimeError]
    assert table.rows == []


def test_when_too_many_wait_the_next_is_refused() -> None:
    group_commit = writer(ListTable(), max_waiting=2)
    first = [group_commit.submit("a"), group_commit.submit("b")]
    with pytest.raises(Overloaded):
        group_commit.submit("c")
    group_commit.stop()
    group_commit.run()
    assert [future.result(0) for future in first] == ["a done", "b done"]


def test_while_one_has_waited_for_too_long_others_are_refused_at_once() -> None:
    clock = ManualClock()
    group_commit = GroupCommit(cast("UnitOfWorkFactory", ListTable()), record, clock=clock, max_wait_seconds=1)
    first = group_commit.submit("a")
    clock.advance(1)
    second = group_commit.submit("b")
    clock.advance(0.1)
    with pytest.raises(Overloaded):
        group_commit.submit("c")
    group_commit.stop()
    group_commit.run()
    assert [first.result(0), second.result(0)] == ["a done", "b done"]


def test_a_request_that_was_cancelled_while_it_waited_is_not_applied() -> None:
    table = ListTable()
    group_commit = writer(table)
    cancelled, kept = group_commit.submit("a"), group_commit.submit("b")
    assert cancelled.cancel()
    group_commit.stop()
    group_commit.run()
    assert (kept.result(0), table.rows) == ("b done", ["b"])


def test_a_request_that_is_withdrawn_while_it_waits_or_is_applied_is_never_stored() -> None:
    table, attempts = ListTable(), list[Sequence[str]]()

    def apply(requests: Sequence[str], work: SqlUnitOfWork) -> Sequence[str]:
        attempts.append(requests)
        if len(attempts) == 1:
            assert group_commit.withdraw(applied)
        return record(requests, work)

    group_commit = writer(table, apply)
    waiting, applied, kept = (group_commit.submit(request) for request in ("a", "b", "c"))
    assert group_commit.withdraw(waiting)
    group_commit.stop()
    group_commit.run()
    assert attempts == [["b", "c"], ["c"]]
    assert (kept.result(0), table.rows) == ("c done", ["c"])
    assert not group_commit.withdraw(kept)


def test_a_request_cannot_be_withdrawn_once_its_commit_has_begun_and_its_failure_leaves_a_doubt() -> None:
    table = ListTable()
    group_commit = writer(table)

    class Cut(DatabaseUnavailable):
        def __str__(self) -> str:
            return f"withdrawn: {group_commit.withdraw(committing)}"

    table.fail_commit = [Cut()]
    committing = group_commit.submit("a")
    group_commit.stop()
    group_commit.run()
    error = committing.exception(0)
    assert isinstance(error, CommitInDoubt)
    assert str(error) == "withdrawn: False"


def test_a_failure_before_the_commit_leaves_no_doubt() -> None:
    table, calls = ListTable(), list[Sequence[str]]()
    table.fail_commit = [TransactionAborted("deadlock")]

    def apply(requests: Sequence[str], work: SqlUnitOfWork) -> Sequence[str]:
        calls.append(requests)
        if len(calls) == 2:
            raise DatabaseUnavailable("gone")
        return record(requests, work)

    (error,) = submitted_then_run(writer(table, apply), "a")
    assert type(error) is DatabaseUnavailable


def test_after_the_end_nothing_can_be_submitted() -> None:
    group_commit = writer(ListTable())
    group_commit.stop()
    group_commit.run()
    with pytest.raises(Overloaded):
        group_commit.submit("late")


def test_requests_that_arrive_during_a_commit_form_the_next_group() -> None:
    table, entered, go_on = ListTable(), Event(), Event()

    def apply(requests: Sequence[str], work: SqlUnitOfWork) -> Sequence[str]:
        entered.set()
        assert go_on.wait(10)
        return record(requests, work)

    group_commit = writer(table, apply)
    thread = Thread(target=group_commit.run)
    thread.start()
    futures: list[Future[str]] = [group_commit.submit("first")]
    assert entered.wait(10)
    futures += [group_commit.submit(str(number)) for number in range(20)]
    go_on.set()
    eventually(lambda: all(future.done() for future in futures))
    group_commit.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert table.commits == [1, 20]
