# SPDX-License-Identifier: Apache-2.0
"""The table of charges: a constant number of statements per batch, rows locked in the order of their ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from orderflow.messaging.service import Transaction
from orderflow.services.payments.domain import Charge, State, Step
from orderflow.services.payments.provider import Payment

# A cancellation overrides a charge, in whatever order the two arrive. A row whose call is in flight keeps its lease
# (due_at); the result of that call applies to the new state. Without a row the provider is asked, because a database
# that was restored may have forgotten the charge.
_REQUEST = """
insert into charges (order_id, state, user_id, amount, currency, payment_token, reason, due_at, deadline, caused_by,
                     trace, created_at, updated_at)
select order_id, case state when 'cancelled' then 'cancelling' else state end, user_id, amount, currency, payment_token,
       reason, case when state in ('requested', 'cancelled') then %(now)s end, deadline, caused_by, trace, %(now)s,
       %(now)s
from unnest(%(order_ids)s::uuid[], %(states)s::text[], %(user_ids)s::text[], %(amounts)s::bigint[],
            %(currencies)s::text[], %(tokens)s::text[], %(reasons)s::text[], %(deadlines)s::timestamptz[],
            %(causes)s::uuid[], %(traces)s::jsonb[])
     as wanted (order_id, state, user_id, amount, currency, payment_token, reason, deadline, caused_by, trace)
order by order_id
on conflict (order_id) do update set
    state = case when charges.state = 'captured' then 'refund_requested'
                 when charges.state = 'requested' and charges.called_at is null then 'cancelled'
                 else 'cancelling' end,
    due_at = case when charges.state = 'captured' then excluded.updated_at
                  when charges.state = 'requested' and charges.called_at is null then null
                  else charges.due_at end,
    payment_token = '', reason = excluded.reason, caused_by = excluded.caused_by, trace = excluded.trace, attempts = 0,
    updated_at = excluded.updated_at
where excluded.state = 'cancelling' and charges.state in ('requested', 'unknown', 'captured')
"""
# Materialized here and below: a subquery may be executed for every row, and then takes more rows than its limit.
# A charge past its deadline is not begun, not even again after a failed call.
_CLAIM = """
with due as materialized (
    select order_id from charges
    where due_at <= %(now)s and (state <> 'requested' or deadline is null or deadline >= %(now)s)
    order by due_at limit %(limit)s for update skip locked)
update charges set due_at = %(leased_until)s, leased_by = %(owner)s,
                   called_at = case state when 'requested' then %(now)s else called_at end
from due where charges.order_id = due.order_id
returning charges.order_id, state, amount, currency, payment_token, charge_id, trace
"""
# Only those that were never called: the others may have been executed, and the end of their hold has them looked up.
_DECLINE_LATE = """
with late as materialized (
    select order_id from charges
    where due_at <= %(now)s and state = 'requested' and deadline < %(now)s and called_at is null
    order by order_id limit %(limit)s for update skip locked)
update charges set state = 'declined', due_at = null, reason = %(reason)s, payment_token = '', updated_at = %(now)s
from late where charges.order_id = late.order_id
returning charges.order_id, user_id, amount, currency, caused_by, trace
"""
_LOCK = """
select order_id, state, attempts, extract(epoch from %(now)s - called_at)::float8, user_id, amount, currency,
       charge_id, reason, caused_by, trace
from charges where order_id = any(%(order_ids)s::uuid[]) order by order_id for update
"""
_RECORD = """
update charges set state = step.state, attempts = step.attempts, due_at = step.due_at, leased_by = null,
                   charge_id = coalesce(step.charge_id, charges.charge_id),
                   reason = coalesce(step.reason, charges.reason),
                   refusal = coalesce(step.refusal, charges.refusal), updated_at = %(now)s,
                   payment_token = case when step.state in ('requested', 'unknown') then payment_token else '' end
from unnest(%(order_ids)s::uuid[], %(states)s::text[], %(attempts)s::integer[], %(due_ats)s::timestamptz[],
            %(charge_ids)s::text[], %(reasons)s::text[], %(refusals)s::text[])
     as step (order_id, state, attempts, due_at, charge_id, reason, refusal)
where charges.order_id = step.order_id
"""
# Late look-ups of cancelled charges keep their time. A row that is locked is about to get another one.
_RESUME = """
with waiting as materialized (
    select order_id from charges where due_at > %(now)s and due_at <= %(latest)s
    and leased_by is null and state <> 'cancelled' for update skip locked)
update charges set due_at = %(now)s from waiting where charges.order_id = waiting.order_id
"""
_COUNT = """
select (select count(*) from charges where due_at is not null and state in ('unknown', 'cancelling')),
       (select count(*) from charges where state = 'refund_failed')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeIntent:
    """What a message requests for an order: a charge, or its cancellation (``state`` CANCELLED)."""

    order_id: UUID
    state: State
    user_id: str
    amount: int
    currency: str
    payment_token: str
    reason: str | None
    deadline: datetime | None
    caused_by: UUID
    trace: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LateCharge:
    """A charge that waited until its deadline had passed; the provider knows nothing of it."""

    order_id: UUID
    user_id: str
    amount: int
    currency: str
    caused_by: UUID
    trace: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCall:
    """A call that is due; ``state`` determines which call."""

    state: State
    payment: Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRow:
    """A locked charge."""

    charge: Charge
    order_id: UUID
    user_id: str
    amount: int
    currency: str
    charge_id: str | None
    reason: str | None
    caused_by: UUID
    trace: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeUpdate:
    """The changes of a row; what is None stays unchanged. ``refusal`` is the provider's word for a refused call."""

    order_id: UUID
    step: Step
    charge_id: str | None = None
    reason: str | None = None
    refusal: str | None = None


def request(transaction: Transaction, intents: Sequence[ChargeIntent]) -> None:
    """Record the intents, at most one per order; an intent that arrives too late changes nothing."""
    encode = msgspec.json.Encoder().encode
    transaction.execute(
        _REQUEST,
        {
            "now": transaction.now,
            "order_ids": [intent.order_id for intent in intents],
            "states": [intent.state.value for intent in intents],
            "user_ids": [intent.user_id for intent in intents],
            "amounts": [intent.amount for intent in intents],
            "currencies": [intent.currency for intent in intents],
            "tokens": [intent.payment_token for intent in intents],
            "reasons": [intent.reason for intent in intents],
            "deadlines": [intent.deadline for intent in intents],
            "causes": [intent.caused_by for intent in intents],
            "traces": [encode(intent.trace).decode() for intent in intents],
        },
    )


def claim(transaction: Transaction, *, limit: int, lease: timedelta) -> list[DueCall]:
    """Up to ``limit`` calls that are due, leased: no other process claims them before the lease ends.

    Charges past their deadline are not among them.
    """
    now, owner = transaction.now, transaction.owner
    rows = transaction.execute(_CLAIM, {"now": now, "leased_until": now + lease, "owner": owner, "limit": limit})
    return [
        DueCall(
            state=State(state),
            payment=Payment(
                order_id=order_id,
                amount=amount,
                currency=currency,
                payment_token=token,
                charge_id=charge_id,
                trace=trace,
            ),
        )
        for order_id, state, amount, currency, token, charge_id, trace in rows
    ]


def decline_late(transaction: Transaction, *, reason: str, limit: int) -> list[LateCharge]:
    """Decline up to ``limit`` charges that passed their deadline before the first call."""
    rows = transaction.execute(_DECLINE_LATE, {"now": transaction.now, "reason": reason, "limit": limit})
    return [
        LateCharge(
            order_id=order_id, user_id=user_id, amount=amount, currency=currency, caused_by=caused_by, trace=trace
        )
        for order_id, user_id, amount, currency, caused_by, trace in rows
    ]


def lock(transaction: Transaction, order_ids: Sequence[UUID]) -> dict[UUID, ChargeRow]:
    """The charges of these orders, locked until the end of the transaction."""
    rows = transaction.execute(_LOCK, {"now": transaction.now, "order_ids": order_ids})
    return {row[0]: _row(row) for row in rows}


def record(transaction: Transaction, updates: Sequence[ChargeUpdate]) -> None:
    """Write the updates of locked charges."""
    transaction.execute(
        _RECORD,
        {
            "now": transaction.now,
            "order_ids": [update.order_id for update in updates],
            "states": [update.step.state.value for update in updates],
            "attempts": [update.step.attempts for update in updates],
            "due_ats": [_due_at(update.step, transaction.now) for update in updates],
            "charge_ids": [update.charge_id for update in updates],
            "reasons": [update.reason for update in updates],
            "refusals": [update.refusal for update in updates],
        },
    )


def resume(transaction: Transaction, *, within: timedelta) -> None:
    """Calls that are not in flight and due within this time are due now."""
    transaction.execute(_RESUME, {"now": transaction.now, "latest": transaction.now + within})


def count(transaction: Transaction) -> tuple[int, int]:
    """The number of charges whose result is not known yet, and of those whose refund was refused."""
    ((unknown, refunds_failed),) = transaction.execute(_COUNT)
    return unknown, refunds_failed


def _row(row: tuple[Any, ...]) -> ChargeRow:
    order_id, state, attempts, since, user_id, amount, currency, charge_id, reason, caused_by, trace = row
    return ChargeRow(
        charge=Charge(state=State(state), attempts=attempts, seconds_since_call=since),
        order_id=order_id,
        user_id=user_id,
        amount=amount,
        currency=currency,
        charge_id=charge_id,
        reason=reason,
        caused_by=caused_by,
        trace=trace,
    )


def _due_at(step: Step, now: datetime) -> datetime | None:
    return None if step.due_seconds is None else now + timedelta(seconds=step.due_seconds)
