# SPDX-License-Identifier: Apache-2.0
"""Which events are rejected because their rows may be deleted, and where a round of deletions begins and ends."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from orderflow.events import OrderConfirmed
from orderflow.messaging.event import Event
from orderflow.messaging.retention import EVENT_TOO_OLD, MARGIN, RecentEvents, RetiredRows
from orderflow.messaging.service import DONE, Incoming, Outcome, Reject
from orderflow.messaging.uuid7 import first_uuid7
from tests.builders import NOW, FunctionHandler, an_event

DAY = timedelta(days=1)


class ScriptedWork:
    """A unit of work whose statements all have this result."""

    now = NOW
    owner = 0

    def __init__(self, *rows: tuple[Any, ...]) -> None:
        self.rows = list(rows)
        self.parameters: list[Mapping[str, object] | None] = []

    def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        assert statement == "statement"
        self.parameters.append(parameters)
        return self.rows

    def publish(self, *_: object, **__: object) -> None:
        raise AssertionError

    def after_commit(self, *_: object) -> None:
        raise AssertionError


def outcomes(work: ScriptedWork, *ages: timedelta, days: int, outcome: Outcome = DONE) -> Sequence[Outcome]:
    """The outcomes of events of these ages."""
    handler = FunctionHandler(lambda messages, _: [outcome] * len(messages))
    recent = RecentEvents(handler, deleted_before="statement", retention_days=days)
    return recent.handle([Incoming(uuid4(), event(age), 0) for age in ages], work)


def event(age: timedelta) -> Event:
    return an_event(OrderConfirmed, timestamp=NOW - age)


def test_events_up_to_the_retention_less_a_margin_are_handled() -> None:
    later = Reject("other")
    ages = (61 * DAY, 0 * DAY, 60 * DAY - MARGIN + timedelta(seconds=1), 60 * DAY - MARGIN)
    assert list(outcomes(ScriptedWork((None,)), *ages, days=60, outcome=later)) == [
        EVENT_TOO_OLD, later, EVENT_TOO_OLD, later
    ]  # fmt: skip


@pytest.mark.parametrize("days", [0, 90])
def test_events_of_a_time_that_was_deleted_before_are_rejected_whatever_the_retention_is_now(days: int) -> None:
    work = ScriptedWork((NOW - 40 * DAY,))
    assert list(outcomes(work, 40 * DAY, 39 * DAY - timedelta(seconds=1), days=days)) == [EVENT_TOO_OLD, DONE]


def test_without_a_retention_every_event_is_handled() -> None:
    assert list(outcomes(ScriptedWork((None,)), 900 * DAY, days=0)) == [DONE]


def test_the_database_is_asked_only_when_an_event_is_older_than_a_day() -> None:
    work = ScriptedWork((None,))
    outcomes(work, DAY, timedelta(0), days=60)
    assert work.parameters == []
    outcomes(work, DAY + timedelta(seconds=1), days=60)
    assert len(work.parameters) == 1


def test_an_old_event_is_handled_when_its_row_is_still_there() -> None:
    class Rows(ScriptedWork):
        def execute(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
            if statement == "lock":
                self.parameters.append(parameters)
                return [(known.order_id,)]
            return [(None,)]

    known, unknown = (an_event(OrderConfirmed, timestamp=NOW - 90 * DAY) for _ in range(2))
    handler = FunctionHandler(lambda messages, _: [DONE] * len(messages))
    recent = RecentEvents(handler, deleted_before="statement", lock="lock", retention_days=60)
    work = Rows()
    messages = [Incoming(uuid4(), sent, 0) for sent in (unknown, known, event(timedelta(0)))]
    assert list(recent.handle(messages, work)) == [EVENT_TOO_OLD, DONE, DONE]
    assert work.parameters == [{"ids": sorted([str(known.order_id), str(unknown.order_id)])}]


def test_a_handler_that_forgets_an_outcome_is_not_hidden() -> None:
    recent = RecentEvents(FunctionHandler(lambda _, __: [DONE]), deleted_before="statement", retention_days=0)
    with pytest.raises(ValueError, match="shorter"):
        recent.handle([Incoming(uuid4(), event(9 * DAY), 0) for _ in range(2)], ScriptedWork((None,)))


def page(position: str, *, now: datetime = NOW, more: bool = False) -> tuple[str, bool, Mapping[str, object] | None]:
    """Position and end of a page of rows that are kept for ten days, and the parameters of its statement."""
    work = ScriptedWork((5, more, UUID(int=7)))
    work.now = now
    pruned = RetiredRows("rows", "statement", days=10).prune_page(work, position, 100)
    return pruned.position, pruned.more, work.parameters[0] if work.parameters else None


def test_a_round_visits_the_ids_from_its_position_to_the_retention() -> None:
    bound = first_uuid7(NOW - 10 * DAY)
    assert page("", more=True) == (
        str(UUID(int=7)),
        True,
        {"after": UUID(int=0), "bound": bound, "before": NOW - 10 * DAY, "limit": 100},
    )
    assert page("", more=False)[:2] == (str(bound), False)


def test_a_longer_retention_than_before_visits_nothing_until_it_has_passed() -> None:
    position, _, _ = page("")
    assert page(position, now=NOW - DAY) == (position, False, None)
