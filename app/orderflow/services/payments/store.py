# SPDX-License-Identifier: Apache-2.0
"""The table of charges: a constant number of statements for any number of orders, rows locked in the order of ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from orderflow.messaging.service import Transaction
from orderflow.services.payments.domain import Charge, State, Step
from orderflow.services.payments.provider import Payment

# Cancelling wins over charging, in whatever order the two arrive. A row whose call is under way keeps its lease
# (due_at); its answer is judged by the state in which it finds the row.
_REQUEST = """
insert into charges (order_id, state, user_id, amount, currency, payment_token, reason, due_at, caused_by, trace,
                     created_at, updated_at)
select order_id, state, user_id, amount, currency, payment_token, reason,
       case state when 'requested' then %(now)s end, caused_by, trace, %(now)s, %(now)s
from unnest(%(order_ids)s::uuid[], %(states)s::text[], %(user_ids)s::text[], %(amounts)s::bigint[],
            %(currencies)s::text[], %(tokens)s::text[], %(reasons)s::text[], %(causes)s::uuid[], %(traces)s::jsonb[])
     as wanted (order_id, state, user_id, amount, currency, payment_token, reason, caused_by, trace)
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
where excluded.state = 'cancelled' and charges.state in ('requested', 'unknown', 'captured')
"""
_CLAIM = """
update charges set due_at = %(leased_until)s,
                   called_at = case state when 'requested' then %(now)s else called_at end
where order_id in (select order_id from charges where due_at <= %(now)s
                   order by due_at limit %(limit)s for update skip locked)
returning order_id, state, amount, currency, payment_token, charge_id, trace
"""
_LOCK = """
select order_id, state, attempts, coalesce(extract(epoch from %(now)s - called_at)::float8, 0), user_id, amount,
       currency, charge_id, reason, caused_by, trace
from charges where order_id = any(%(order_ids)s::uuid[]) order by order_id for update
"""
_RECORD = """
update charges set state = step.state, attempts = step.attempts, due_at = step.due_at,
                   charge_id = coalesce(step.charge_id, charges.charge_id),
                   reason = coalesce(step.reason, charges.reason), updated_at = %(now)s,
                   payment_token = case when step.state in ('requested', 'unknown') then payment_token else '' end
from unnest(%(order_ids)s::uuid[], %(states)s::text[], %(attempts)s::integer[], %(due_ats)s::timestamptz[],
            %(charge_ids)s::text[], %(reasons)s::text[])
     as step (order_id, state, attempts, due_at, charge_id, reason)
where charges.order_id = step.order_id
"""
_UNRESOLVED = """
select count(*) from charges where due_at is not null and state in ('unknown', 'cancelling')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeIntent:
    """What a message wants for an order: a charge, or that there be none (``state`` cancelled)."""

    order_id: UUID
    state: State
    user_id: str
    amount: int
    currency: str
    payment_token: str
    reason: str | None
    caused_by: UUID
    trace: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that is due: which one follows from the state."""

    state: State
    payment: Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A charge as it is now, locked."""

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
class Change:
    """What becomes of a row; ``charge_id`` and ``reason`` stay as they are when None."""

    order_id: UUID
    step: Step
    charge_id: str | None = None
    reason: str | None = None


def request(transaction: Transaction, wishes: Sequence[ChargeIntent]) -> None:
    """Write down what messages want, at most one wish per order; wishes that come too late change nothing."""
    encode = msgspec.json.Encoder().encode
    transaction.execute(
        _REQUEST,
        {
            "now": transaction.now,
            "order_ids": [wish.order_id for wish in wishes],
            "states": [wish.state.value for wish in wishes],
            "user_ids": [wish.user_id for wish in wishes],
            "amounts": [wish.amount for wish in wishes],
            "currencies": [wish.currency for wish in wishes],
            "tokens": [wish.payment_token for wish in wishes],
            "reasons": [wish.reason for wish in wishes],
            "causes": [wish.caused_by for wish in wishes],
            "traces": [encode(wish.trace).decode() for wish in wishes],
        },
    )


def claim(transaction: Transaction, *, limit: int, lease: timedelta) -> list[Call]:
    """Up to ``limit`` calls that are due; nobody else gets them before the lease is over."""
    now = transaction.now
    rows = transaction.execute(_CLAIM, {"now": now, "leased_until": now + lease, "limit": limit})
    return [
        Call(
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


def lock(transaction: Transaction, order_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """The charges of these orders, locked until the end of the transaction."""
    rows = transaction.execute(_LOCK, {"now": transaction.now, "order_ids": order_ids})
    return {row[0]: _row(row) for row in rows}


def record(transaction: Transaction, changes: Sequence[Change]) -> None:
    """Write what was decided about locked charges."""
    transaction.execute(
        _RECORD,
        {
            "now": transaction.now,
            "order_ids": [change.order_id for change in changes],
            "states": [change.step.state.value for change in changes],
            "attempts": [change.step.attempts for change in changes],
            "due_ats": [_due_at(change.step, transaction.now) for change in changes],
            "charge_ids": [change.charge_id for change in changes],
            "reasons": [change.reason for change in changes],
        },
    )


def unresolved(transaction: Transaction) -> int:
    """How many charges have an outcome that nobody knows yet."""
    ((count,),) = transaction.execute(_UNRESOLVED)
    return int(count)


def _row(row: tuple[Any, ...]) -> Row:
    order_id, state, attempts, since, user_id, amount, currency, charge_id, reason, caused_by, trace = row
    return Row(
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
