# SPDX-License-Identifier: Apache-2.0
"""The life of a charge, without input or output.

::

    requested ── captured ── refund_requested ── refunded
     │  │  │         │              │
     │  │  declined  └ order cancelled
     │  unknown ── (look-up) ── captured | declined | requested again, with the same key
     └─ order cancelled ── cancelling ── (look-up) ── refund_requested | cancelled
                                                                              └ (late look-up) ── refund_requested

A call without an answer makes the charge ``unknown``, never declined. Nothing but the provider's word or the end of
the order (``order.cancelled``, when its hold expires) ends that state.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from orderflow.services.payments.provider import Answer, Captured, Declined, NotKnown, Refunded

FIRST_DELAY_SECONDS = 0.5
MOST_DELAY_SECONDS = 30.0
SETTLED_AFTER_SECONDS = 60.0
"""A charge of which the provider knows nothing this long after the last call is taken as never executed."""
LATE_LOOKS_SECONDS = (3600.0, 82_800.0)
"""Providers have been seen to execute late: a cancelled charge is asked for again after an hour, and after a day."""


class State(StrEnum):
    """Where a charge is."""

    REQUESTED = "requested"
    """The provider is to be asked to charge."""
    UNKNOWN = "unknown"
    """A call got no answer; the provider is to be asked what became of it."""
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLING = "cancelling"
    """The order was cancelled after a call may have gone out; the provider is to be asked what became of it."""
    CANCELLED = "cancelled"
    """Never charged, as far as the provider knows."""
    REFUND_REQUESTED = "refund_requested"
    """The provider is to be asked to pay back."""
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a decision depends on. ``attempts`` counts calls in a row that settled nothing."""

    state: State
    attempts: int = 0
    seconds_since_call: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows: the new state, whether it is news to others, and in how many seconds the next call is due."""

    state: State
    announced: bool = False
    due_seconds: float | None = None
    attempts: int = 0


def decide(charge: Charge, answer: Answer, *, settled_after_seconds: float = SETTLED_AFTER_SECONDS) -> Step | None:
    """What an answer means for a charge as it is now; None when it changes nothing.

    The charge may have moved on since the call was made: it was cancelled, or another process got an answer first.
    """
    match charge.state, answer:
        case ((State.REQUESTED | State.UNKNOWN), Captured()):
            return Step(state=State.CAPTURED, announced=True)
        case ((State.CANCELLING | State.CANCELLED), Captured()):
            return Step(state=State.REFUND_REQUESTED, due_seconds=0)
        case ((State.REQUESTED | State.UNKNOWN), Declined()):
            return Step(state=State.DECLINED, announced=True)
        case State.CANCELLING, Declined():
            return Step(state=State.CANCELLED)
        case State.UNKNOWN, NotKnown():
            return Step(state=State.REQUESTED, due_seconds=0, attempts=charge.attempts)
        case State.CANCELLING, NotKnown() if charge.seconds_since_call >= settled_after_seconds:
            return Step(state=State.CANCELLED, due_seconds=LATE_LOOKS_SECONDS[0])
        case State.CANCELLED, _:
            return _late(charge, answer)
        case State.REFUND_REQUESTED, Refunded():
            return Step(state=State.REFUNDED, announced=True)
        case _:
            return _again(charge, answer)


def _late(charge: Charge, answer: Answer) -> Step:
    """A cancelled charge was asked for once more; the provider's silence does not count as a look."""
    if isinstance(answer, Declined):
        return Step(state=State.CANCELLED)
    looks = charge.attempts + isinstance(answer, NotKnown)
    due = LATE_LOOKS_SECONDS[looks] if looks < len(LATE_LOOKS_SECONDS) else None
    return Step(state=State.CANCELLED, due_seconds=due, attempts=looks)


def _again(charge: Charge, answer: Answer) -> Step | None:
    """The next call after one that settled nothing; None when no call is needed any more."""
    state = charge.state
    if state not in OPEN:
        return None
    if state is State.REQUESTED and answer.word == "unclear":
        state = State.UNKNOWN
    return Step(state=state, due_seconds=delay_seconds(charge.attempts), attempts=charge.attempts + 1)


OPEN = frozenset({State.REQUESTED, State.UNKNOWN, State.CANCELLING, State.REFUND_REQUESTED})
"""The states in which a call to the provider is due, or under way."""


def delay_seconds(attempts: int) -> float:
    """The pause before the next call: 0.5 s, doubling up to 30 s, each shortened by up to a half at random."""
    step = min(MOST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(attempts, 16))
    return random.uniform(step / 2, step)  # noqa: S311 - spreads load, keeps no secret
