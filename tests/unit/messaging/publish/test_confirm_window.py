# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.messaging.broker import Failure, Properties, Publication, Receipt
from orderflow.messaging.instrumentation import PublishObserver
from orderflow.messaging.publish.confirm_window import HARD_CAP, ConfirmWindow

NO_OBSERVER, GROUP, LOST = PublishObserver(), PublishObserver(), PublishObserver()


class SettledGroups:
    """The groups that the window reported as settled."""

    def __init__(self) -> None:
        self.groups: list[tuple[object, int, dict[Failure, int]]] = []

    def __call__(
        self, observer: PublishObserver, confirmed: int, failures: Counter[Failure], written_at: float
    ) -> None:
        self.groups.append((observer, confirmed, dict(failures)))


def publication(message_id: str = "", *, routing_key: str = "order.created", body: bytes = b"") -> Publication:
    return Publication(uuid4(), "order_events", routing_key, Properties(message_id=message_id or None), body)


def hand_over(window: ConfirmWindow, publications: list[Publication]) -> Receipt:
    receipt = Receipt([each.key for each in publications])
    window.add(publications, receipt)
    return receipt


def write(window: ConfirmWindow, observer: PublishObserver | None = None) -> range:
    """Write everything that is due."""
    return window.written(len(window.due()), observer or NO_OBSERVER, 0.0)


def returned(window: ConfirmWindow, each: Publication) -> bool:
    return window.returned(each.exchange, each.routing_key, each.properties, each.body)


def test_no_more_is_due_than_the_window_holds() -> None:
    window = ConfirmWindow(3, SettledGroups())
    group = [publication() for _ in range(5)]
    hand_over(window, group)
    assert window.due() == group[:3]
    assert write(window) == range(1, 4)
    assert window.due() == [] and (window.unconfirmed, window.waiting) == (3, 2)
    window.settle(2, multiple=True, acked=True)
    assert window.due() == group[3:]
    assert write(window) == range(4, 6)


def test_no_window_is_larger_than_the_hard_cap() -> None:
    window = ConfirmWindow(10 * HARD_CAP, SettledGroups())
    hand_over(window, [publication() for _ in range(HARD_CAP + 1)])
    assert len(window.due()) == HARD_CAP


def test_a_multiple_confirm_settles_all_up_to_its_tag_and_a_single_one_only_its_own() -> None:
    settled = SettledGroups()
    window = ConfirmWindow(10, settled)
    group = [publication() for _ in range(5)]
    receipt = hand_over(window, group)
    write(window, GROUP)
    window.settle(4, multiple=False, acked=True)
    assert window.unconfirmed == 4
    window.settle(3, multiple=True, acked=True)
    assert window.unconfirmed == 1 and not receipt.settled and settled.groups == []
    window.settle(5, multiple=True, acked=False)
    assert receipt.settled and receipt.failures == {group[4].key: Failure.NACKED}
    assert settled.groups == [(GROUP, 4, {Failure.NACKED: 1})]


def test_a_confirm_of_an_unknown_tag_changes_nothing() -> None:
    window = ConfirmWindow(10, SettledGroups())
    receipt = hand_over(window, [publication()])
    write(window)
    window.settle(7, multiple=False, acked=True)
    assert not receipt.settled
    window.settle(1, multiple=False, acked=True)
    window.settle(1, multiple=False, acked=False)
    assert receipt.settled and not receipt.failures


def test_a_returned_message_fails_although_it_is_confirmed() -> None:
    window = ConfirmWindow(10, SettledGroups())
    group = [publication("a"), publication("b"), publication("c")]
    receipt = hand_over(window, group)
    write(window)
    assert returned(window, group[1])
    assert not receipt.settled
    window.settle(3, multiple=True, acked=True)
    assert receipt.failures == {group[1].key: Failure.RETURNED}


@pytest.mark.parametrize("which", [0, 1])
def test_a_return_fails_the_message_that_equals_it_in_everything_not_only_in_its_id(which: int) -> None:
    window = ConfirmWindow(10, SettledGroups())
    group = [publication("same", body=b"first"), publication("same", body=b"second")]
    receipt = hand_over(window, group)
    write(window)
    returned(window, group[which])
    window.settle(2, multiple=True, acked=True)
    assert receipt.failures == {group[which].key: Failure.RETURNED}


def test_two_returns_of_equal_messages_fail_both() -> None:
    window = ConfirmWindow(10, SettledGroups())
    one = publication("same")
    other = Publication(uuid4(), one.exchange, one.routing_key, one.properties, one.body)
    receipt = hand_over(window, [one, other])
    write(window)
    assert returned(window, one) and returned(window, one) and not returned(window, one)
    window.settle(2, multiple=True, acked=True)
    assert receipt.failures == dict.fromkeys((one.key, other.key), Failure.RETURNED)


def test_a_return_that_the_broker_has_changed_still_fails_its_message() -> None:
    window = ConfirmWindow(10, SettledGroups())
    one, other = publication("a"), publication("b")
    receipt = hand_over(window, [one, other])
    write(window)
    changed = msgspec.structs.replace(one.properties, timestamp=1, headers={"x-routed-by": "rabbit@a"})
    assert window.returned(one.exchange, one.routing_key, changed, one.body)
    window.settle(2, multiple=True, acked=True)
    assert receipt.failures == {one.key: Failure.RETURNED}


def test_an_unknown_return_is_reported_and_publications_with_its_route_are_not_confirmed() -> None:
    window = ConfirmWindow(10, SettledGroups())
    one, other = publication("a"), msgspec.structs.replace(publication("b"), routing_key="elsewhere")
    receipt = hand_over(window, [one, other])
    write(window)
    assert not returned(window, msgspec.structs.replace(one, body=b"changed"))
    window.settle(2, multiple=True, acked=True)
    assert receipt.failures == {one.key: Failure.RETURNED}


def test_losing_fails_what_is_on_the_wire_and_what_waits_and_tags_begin_again() -> None:
    settled = SettledGroups()
    window = ConfirmWindow(2, settled)
    receipt = hand_over(window, [publication() for _ in range(5)])
    write(window, LOST)
    assert window.lose() == 5
    assert set(receipt.failures.values()) == {Failure.LOST} and len(receipt.failures) == 5 and receipt.settled
    assert settled.groups == [(LOST, 0, {Failure.LOST: 2})]
    assert (window.unconfirmed, window.waiting) == (0, 0)
    hand_over(window, [publication()])
    assert write(window) == range(1, 2)


def test_the_publication_of_the_size_that_the_broker_refused_fails_alone_and_the_others_are_written_again() -> None:
    settled = SettledGroups()
    window = ConfirmWindow(10, settled)
    group = [publication(body=b"x" * size) for size in (1, 5, 2)]
    receipt = hand_over(window, group)
    waiting = hand_over(window, [publication()])
    write(window, GROUP)
    assert window.refused(Failure.TOO_LARGE, size_bytes=5) == 1
    assert receipt.failures == {group[1].key: Failure.TOO_LARGE} and not receipt.settled
    assert settled.groups == [(GROUP, 0, {Failure.LOST: 3, Failure.TOO_LARGE: 1})]
    assert write(window) == range(1, 4), "the others, and what waited behind them"
    window.settle(3, multiple=True, acked=True)
    assert receipt.settled and waiting.settled and not waiting.failures


def test_while_it_is_unknown_which_publication_was_refused_each_is_written_alone() -> None:
    window = ConfirmWindow(10, SettledGroups())
    group = [publication() for _ in range(4)]
    receipt = hand_over(window, group)
    write(window)
    assert window.refused(Failure.REFUSED) == 0
    later = hand_over(window, [publication(), publication()])
    assert window.due() == group[:1]
    assert write(window) == range(1, 2)
    assert window.due() == []
    window.settle(1, multiple=False, acked=True)
    assert window.due() == group[1:2]
    write(window)
    assert window.refused(Failure.REFUSED) == 1
    assert receipt.failures == {group[1].key: Failure.REFUSED}
    for each in group[2:]:
        assert window.due() == [each]
        (tag,) = write(window)
        window.settle(tag, multiple=False, acked=True)
    assert receipt.settled
    assert len(window.due()) == 2, "the suspects are written, so the window is open again"
    write(window)
    window.settle(4, multiple=True, acked=True)
    assert later.settled and not later.failures


def test_a_lost_connection_ends_the_suspicion() -> None:
    window = ConfirmWindow(10, SettledGroups())
    hand_over(window, [publication(), publication()])
    write(window)
    window.refused(Failure.REFUSED)
    assert window.lose() == 2
    hand_over(window, [publication(), publication()])
    assert len(window.due()) == 2


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9)),
        st.tuples(st.just("write"), st.just(0)),
        st.tuples(st.sampled_from(["ack", "nack", "ack all"]), st.integers(0, 40)),
        st.tuples(st.sampled_from(["lose", "refuse"]), st.integers(0, 1)),
    ),
    max_size=60,
)


@given(Steps, st.integers(1, 8))
def test_each_publication_is_settled_once_and_reported_once(steps: list[tuple[str, int]], size: int) -> None:
    settled = SettledGroups()
    window = ConfirmWindow(size, settled)
    receipts: list[Receipt] = []
    written = 0
    for step, number in steps:
        if step == "add":
            receipts.append(hand_over(window, [publication() for _ in range(number)]))
        elif step == "write":
            written += len(write(window)) if window.due() else 0
        elif step == "lose":
            window.lose()
        elif step == "refuse":
            window.refused(Failure.REFUSED, size_bytes=0 if number else None)
        else:
            window.settle(number, multiple=step == "ack all", acked=step != "nack")
        assert window.unconfirmed <= size
        assert sum(receipt._open for receipt in receipts) == window.unconfirmed + window.waiting
    window.lose()
    assert all(receipt.settled and receipt._open == 0 for receipt in receipts)
    assert sum(confirmed + sum(failures.values()) for _, confirmed, failures in settled.groups) == written
    failed = sum(len(receipt.failures) for receipt in receipts)
    assert failed + sum(len(receipt.confirmed) for receipt in receipts) == sum(len(each.keys) for each in receipts)
