# SPDX-License-Identifier: Apache-2.0
"""The state machine of a charge, without I/O.

::

    requested ── captured ── refund_requested ── refunded | refund_failed (refused: an operator decides)
     │  │  │         │              │
     │  │  declined  └ order cancelled
     │  unknown ── (look-up) ── captured | declined | requested again, with the same key
     └─ order cancelled ── cancelling ── (look-up) ── refund_requested | cancelled
                               │                                              └ (late look-up) ── refund_requested
    no charge is known, and the order is cancelled: one look-up decides

A call without a response makes the charge ``unknown``, never declined. Only a result of the provider, or the end of the
order (``order.cancelled``, when its hold expires), ends that state.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from orderflow.messaging.backoff import delay_seconds
from orderflow.services.payments.provider import (
    Captured,
    Declined,
    NotKnown,
    ProviderResult,
    Refunded,
    Refused,
    Unclear,
)

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
SETTLED_AFTER_SECONDS = 60.0
"""A charge that the provider does not know this long after the last call counts as never executed."""
LATE_LOOK_UPS_SECONDS = (3600.0, 82_800.0)
"""A provider may execute a charge late: a cancelled charge is looked up again after an hour, and after a day."""
CONFLICTS = 5
"""A refund is refused for good when its fifth attempt ends in a conflict, too: after 4 to 8 s."""


class State(StrEnum):
    """The state of a charge."""

    REQUESTED = "requested"
    """A charge call is due or in flight."""
    UNKNOWN = "unknown"
    """A charge call had no response; its result is to be looked up."""
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLING = "cancelling"
    """The order was cancelled, and a charge call may have been sent; its result is to be looked up."""
    CANCELLED = "cancelled"
    """The provider has no such charge."""
    REFUND_REQUESTED = "refund_requested"
    """A refund call is due or in flight."""
    REFUNDED = "refunded"
    REFUND_FAILED = "refund_failed"
    """The provider refused the refund for good: the customer is charged, and an operator must act."""


OPEN = frozenset({State.REQUESTED, State.UNKNOWN, State.CANCELLING, State.REFUND_REQUESTED})
"""The states in which a call to the provider is due or in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """The fields of a charge that a decision depends on.

    ``attempts`` counts consecutive calls without a usable result. ``seconds_since_call`` is None when no charge call is
    known: the order was cancelled before it was reserved, or the database has lost the charge.
    """

    state: State
    attempts: int = 0
    seconds_since_call: float | None = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A decision: the new state, whether an event announces it, and in how many seconds the next call is due."""

    state: State
    announced: bool = False
    due_seconds: float | None = None
    attempts: int = 0


def decide(
    charge: Charge, result: ProviderResult, *, settled_after_seconds: float = SETTLED_AFTER_SECONDS
) -> Step | None:
    """The step that the result of a call causes in the current state of the charge; None when it changes nothing.

    The charge may have changed since the call, by a cancellation or by a result that another process recorded.
    """
    match charge.state, result:
        case ((State.REQUESTED | State.UNKNOWN), Captured()):
            return Step(state=State.CAPTURED, announced=True)
        case ((State.CANCELLING | State.CANCELLED), Captured()):
            return Step(state=State.REFUND_REQUESTED, due_seconds=0)
        case ((State.REQUESTED | State.UNKNOWN), Declined()) | (State.REQUESTED, Refused()):
            return Step(state=State.DECLINED, announced=True)
        case State.CANCELLING, Declined() | NotKnown():
            return _after_look_up(charge, result, settled_after_seconds)
        case State.UNKNOWN, NotKnown():
            return Step(state=State.REQUESTED, due_seconds=0, attempts=charge.attempts)
        case State.CANCELLED, _:
            return _after_late_look_up(charge, result)
        case State.REFUND_REQUESTED, Refunded():
            return Step(state=State.REFUNDED, announced=True)
        case State.REFUND_REQUESTED, Refused(certain=certain) if certain or charge.attempts >= CONFLICTS - 1:
            return Step(state=State.REFUND_FAILED, attempts=charge.attempts + 1)
        case _:
            return _retry(charge, result)


def uncounted(step: Step, charge: Charge) -> Step:
    """The step after a call without a response, while calls are suspended: it is no attempt, and there is no delay.

    The runner of the calls decides when the next one is made. A late look-up keeps its time.
    """
    if step.state not in OPEN:
        return step
    return replace(step, due_seconds=0, attempts=charge.attempts)


def _after_look_up(charge: Charge, result: ProviderResult, settled_after_seconds: float) -> Step | None:
    """The provider has not charged a cancelled order. A call that is still on its way to it may yet be executed."""
    if isinstance(result, Declined) or charge.seconds_since_call is None:
        return Step(state=State.CANCELLED)
    if charge.seconds_since_call >= settled_after_seconds:
        return Step(state=State.CANCELLED, due_seconds=LATE_LOOK_UPS_SECONDS[0])
    return _retry(charge, result)


def _after_late_look_up(charge: Charge, result: ProviderResult) -> Step:
    """The next late look-up of a cancelled charge. Only a response of the provider counts as one."""
    if isinstance(result, Declined):
        return Step(state=State.CANCELLED)
    look_ups = charge.attempts + isinstance(result, NotKnown)
    due = LATE_LOOK_UPS_SECONDS[look_ups] if look_ups < len(LATE_LOOK_UPS_SECONDS) else None
    return Step(state=State.CANCELLED, due_seconds=due, attempts=look_ups)


def _retry(charge: Charge, result: ProviderResult) -> Step | None:
    """The next call after one without a usable result; None when no call is needed."""
    if charge.state not in OPEN:
        return None
    unknown = charge.state is State.REQUESTED and isinstance(result, Unclear)
    delay = delay_seconds(charge.attempts, first=FIRST_DELAY_SECONDS, maximum=MAX_DELAY_SECONDS)
    state = State.UNKNOWN if unknown else charge.state
    return Step(state=state, due_seconds=delay, attempts=charge.attempts + 1)
