# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow.services.payments.domain import CONFLICTS, OPEN, Charge, State, Step, decide
from orderflow.services.payments.provider import (
    Captured,
    Declined,
    Failed,
    NotKnown,
    ProviderResult,
    Refunded,
    Refused,
    Unclear,
)

CAPTURED, DECLINED, NOT_KNOWN, REFUNDED = Captured("ch_1"), Declined(), NotKnown(), Refunded()
FAILED, UNCLEAR, REFUSED = Failed("status_500"), Unclear("timeout"), Refused("status_422")
RESULTS: tuple[ProviderResult, ...] = (CAPTURED, DECLINED, REFUSED, NOT_KNOWN, REFUNDED, FAILED, UNCLEAR)


def after(state: State, result: ProviderResult, *, seconds_since_call: float | None = 0) -> tuple[State, bool] | None:
    """The state that follows, and whether that is announced."""
    step = decide(Charge(state=state, seconds_since_call=seconds_since_call), result)
    return None if step is None else (step.state, step.announced)


@pytest.mark.parametrize("state", [State.REQUESTED, State.UNKNOWN])
def test_the_providers_result_settles_a_charge(state: State) -> None:
    assert after(state, CAPTURED) == (State.CAPTURED, True)
    assert after(state, DECLINED) == (State.DECLINED, True)


def test_a_call_without_a_response_makes_a_charge_unknown_and_it_is_looked_up() -> None:
    step = decide(Charge(state=State.REQUESTED), UNCLEAR)
    assert step is not None
    assert (step.state, step.announced, step.attempts) == (State.UNKNOWN, False, 1)
    assert step.due_seconds is not None


def test_an_error_of_the_provider_is_tried_again_and_announces_nothing() -> None:
    assert after(State.REQUESTED, FAILED) == (State.REQUESTED, False)


def test_a_charge_of_which_the_provider_knows_nothing_is_made_again_at_once() -> None:
    step = decide(Charge(state=State.UNKNOWN, attempts=3), NOT_KNOWN)
    assert step is not None
    assert (step.state, step.due_seconds, step.attempts) == (State.REQUESTED, 0, 3)


@pytest.mark.parametrize("state", [State.CANCELLING, State.CANCELLED])
def test_a_charge_that_turns_out_to_be_executed_for_a_cancelled_order_is_refunded(state: State) -> None:
    assert after(state, CAPTURED) == (State.REFUND_REQUESTED, False)


def test_a_cancelled_charge_is_given_up_only_when_no_call_can_be_under_way() -> None:
    assert after(State.CANCELLING, NOT_KNOWN, seconds_since_call=59.9) == (State.CANCELLING, False)
    assert after(State.CANCELLING, NOT_KNOWN, seconds_since_call=60) == (State.CANCELLED, False)
    assert after(State.CANCELLING, UNCLEAR, seconds_since_call=1e6) == (State.CANCELLING, False)
    assert after(State.CANCELLING, DECLINED) == (State.CANCELLED, False)


def test_without_a_known_call_one_response_of_the_provider_decides() -> None:
    charge = Charge(state=State.CANCELLING, seconds_since_call=None)
    assert decide(charge, NOT_KNOWN) == Step(state=State.CANCELLED)
    assert decide(charge, DECLINED) == Step(state=State.CANCELLED)
    assert after(State.CANCELLING, CAPTURED, seconds_since_call=None) == (State.REFUND_REQUESTED, False)
    assert after(State.CANCELLING, UNCLEAR, seconds_since_call=None) == (State.CANCELLING, False)


def test_a_cancelled_charge_is_asked_for_again_after_an_hour_and_after_a_day() -> None:
    given_up = decide(Charge(state=State.CANCELLING, seconds_since_call=60), NOT_KNOWN)
    assert given_up == Step(state=State.CANCELLED, due_seconds=3600)
    unreachable = decide(Charge(state=State.CANCELLED), UNCLEAR)
    assert unreachable == given_up
    first = decide(Charge(state=State.CANCELLED), NOT_KNOWN)
    assert first == Step(state=State.CANCELLED, due_seconds=82_800, attempts=1)
    assert decide(Charge(state=State.CANCELLED, attempts=1), NOT_KNOWN) == Step(state=State.CANCELLED, attempts=2)
    assert decide(Charge(state=State.CANCELLED), DECLINED) == Step(state=State.CANCELLED)


def test_a_refund_is_asked_for_until_the_provider_says_that_it_did_it() -> None:
    assert after(State.REFUND_REQUESTED, FAILED) == (State.REFUND_REQUESTED, False)
    assert after(State.REFUND_REQUESTED, UNCLEAR) == (State.REFUND_REQUESTED, False)
    assert after(State.REFUND_REQUESTED, REFUNDED) == (State.REFUNDED, True)


def test_a_refused_charge_is_declined_but_not_when_an_earlier_call_may_have_been_executed() -> None:
    assert after(State.REQUESTED, REFUSED) == (State.DECLINED, True)
    assert after(State.UNKNOWN, REFUSED) == (State.UNKNOWN, False)
    assert after(State.CANCELLING, REFUSED) == (State.CANCELLING, False)


def test_a_refused_refund_waits_for_an_operator_and_is_not_tried_again() -> None:
    step = decide(Charge(state=State.REFUND_REQUESTED), REFUSED)
    assert step == Step(state=State.REFUND_FAILED, attempts=1)


def test_a_refund_in_conflict_with_a_call_that_may_still_run_is_tried_some_more() -> None:
    conflict = Refused("already_refunded", certain=False)
    for attempts in range(CONFLICTS - 1):
        step = decide(Charge(state=State.REFUND_REQUESTED, attempts=attempts), conflict)
        assert step is not None
        assert (step.state, step.attempts) == (State.REFUND_REQUESTED, attempts + 1)
    step = decide(Charge(state=State.REFUND_REQUESTED, attempts=CONFLICTS - 1), conflict)
    assert step is not None
    assert (step.state, step.due_seconds) == (State.REFUND_FAILED, None)


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("state", [State.CAPTURED, State.DECLINED, State.REFUNDED, State.REFUND_FAILED])
def test_a_late_result_changes_nothing_about_a_settled_charge(state: State, result: ProviderResult) -> None:
    assert after(state, result) is None


@given(results=st.lists(st.sampled_from(RESULTS)), seconds=st.floats(0, 120))
def test_any_results_lead_to_at_most_one_outcome_and_one_refund(results: list[ProviderResult], seconds: float) -> None:
    charge, announced = Charge(state=State.REQUESTED), []
    for result in results:
        step = decide(charge, result)
        if step is not None:
            assert (step.state in OPEN) <= (step.due_seconds is not None) <= (step.state in OPEN | {State.CANCELLED})
            announced += [step.state] * step.announced
            charge = Charge(state=step.state, attempts=step.attempts, seconds_since_call=seconds)
    assert announced in ([], [State.CAPTURED], [State.DECLINED])


@given(results=st.lists(st.sampled_from(RESULTS)), silent=st.integers(0, 1000))
def test_only_the_provider_can_decline(results: list[ProviderResult], silent: int) -> None:
    charge = Charge(state=State.REQUESTED, attempts=silent)
    for result in (result for result in results if not isinstance(result, Declined | Refused)):
        step = decide(charge, result)
        if step is not None:
            assert step.state is not State.DECLINED
            charge = Charge(state=step.state, attempts=step.attempts)
