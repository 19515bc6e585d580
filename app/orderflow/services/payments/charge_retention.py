# SPDX-License-Identifier: Apache-2.0
"""Deletes old charges and keeps their sums; an event whose charge may be deleted charges and refunds nothing."""

from orderflow.messaging.retention import RecentEvents, RetiredRows
from orderflow.messaging.service import Handler

# A charge stays while a call is due, also a late look-up, and while an operator must act.
_PRUNE_PAGE = """
with page as materialized (
    select ctid, order_id from charges where order_id > %(after)s and order_id < %(bound)s
    order by order_id limit %(limit)s),
retired as (
    delete from charges where ctid = any(array(select ctid from page)) and updated_at < %(before)s
    and due_at is null and state in ('captured', 'declined', 'cancelled', 'refunded')
    returning state, currency, amount),
counted as (
    insert into retired_charges (state, currency, charges, amount, before)
    select state, currency, count(*), sum(amount), %(before)s from retired group by state, currency
    on conflict (state, currency) do update set charges = retired_charges.charges + excluded.charges,
        amount = retired_charges.amount + excluded.amount, before = greatest(retired_charges.before, excluded.before))
select (select count(*) from retired), (select count(*) from page) = %(limit)s,
       (select order_id from page order by order_id desc limit 1)
"""
_DELETED_BEFORE = "select max(before) from retired_charges"
_LOCK = "select order_id from charges where order_id = any(%(ids)s::uuid[]) order by order_id for update"


def retired_charges(*, days: int) -> RetiredRows:
    """Charges whose last change was more than ``days`` ago."""
    return RetiredRows("charges", _PRUNE_PAGE, days=days)


def recent_events(handler: Handler, *, retention_days: int) -> Handler:
    """A handler that gets only the events whose charges are not deleted."""
    return RecentEvents(handler, deleted_before=_DELETED_BEFORE, lock=_LOCK, retention_days=retention_days)
