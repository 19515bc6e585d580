# SPDX-License-Identifier: Apache-2.0
"""Deletes old reservations and lines of the ledger and keeps their sums; no event reserves for such an order again."""

from datetime import UTC, datetime, timedelta

from orderflow.messaging.retention import RecentEvents, RetiredRows
from orderflow.messaging.service import Handler, PrunedPage, Transaction

# A reservation with n SKUs has up to 2n lines, so a page ends before the order with which it would have too many rows.
# The first order is in it however large it is. Reserved units stay, with their lines.
_PRUNE_PAGE = """
with visited as materialized (
    select ctid, order_id, items from reservations where order_id > %(after)s and order_id < %(bound)s
    order by order_id limit %(limit)s / 3),
numbered as materialized (
    select ctid, order_id, row_number() over (order by order_id) as number,
           sum(1 + 2 * (select count(*) from jsonb_object_keys(items))) over (order by order_id) as rows
    from visited),
page as materialized (select ctid, order_id from numbered where number = 1 or rows <= %(limit)s),
retired as (
    delete from reservations where ctid = any(array(select ctid from page)) and updated_at < %(before)s
    and state in ('rejected', 'sold', 'released') returning order_id, state, items),
lines as (
    delete from stock_ledger where order_id = any(array(select order_id from retired))
    returning sku, d_available, d_reserved, d_sold),
counted as (
    insert into retired_reservations (state, reservations, before)
    select state, count(*), %(before)s from retired group by state
    on conflict (state) do update set reservations = retired_reservations.reservations + excluded.reservations,
        before = greatest(retired_reservations.before, excluded.before)),
moved as (
    select sku, sum(d_available) as available, sum(d_reserved) as reserved, sum(d_sold) as sold, sum(held) as held
    from (select sku, d_available, d_reserved, d_sold, 0::bigint as held from lines union all
          select key, 0, 0, 0, value::bigint from retired, jsonb_each_text(items) where state = 'sold') as moves
    group by sku),
summed as (
    insert into retired_stock (sku, put, available, reserved, sold, held_sold)
    select sku, 0, available, reserved, sold, held from moved order by sku collate "C"
    on conflict (sku) do update set available = retired_stock.available + excluded.available,
        reserved = retired_stock.reserved + excluded.reserved, sold = retired_stock.sold + excluded.sold,
        held_sold = retired_stock.held_sold + excluded.held_sold)
select (select count(*) from retired) + (select count(*) from lines),
       (select count(*) from visited) = %(limit)s / 3 or (select count(*) from page) < (select count(*) from visited),
       (select order_id from page order by order_id desc limit 1)
"""
# From the position on, itself included, because several lines may have the same time.
_PRUNE_PUTS = """
with page as materialized (
    select ctid, at from stock_ledger where order_id is null and at >= %(after)s and at < %(before)s
    order by at limit %(limit)s),
lines as (
    delete from stock_ledger where ctid = any(array(select ctid from page))
    returning sku, d_available, d_reserved, d_sold),
summed as (
    insert into retired_stock (sku, put, available, reserved, sold, held_sold)
    select sku, sum(d_available), sum(d_available), sum(d_reserved), sum(d_sold), 0
    from lines group by sku order by sku collate "C"
    on conflict (sku) do update set put = retired_stock.put + excluded.put,
        available = retired_stock.available + excluded.available, reserved = retired_stock.reserved + excluded.reserved,
        sold = retired_stock.sold + excluded.sold)
select (select count(*) from lines), (select max(at) from page)
"""
_DELETED_BEFORE = "select max(before) from retired_reservations"
_LOCK = "select order_id from reservations where order_id = any(%(ids)s::uuid[]) order by order_id for update"
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)


def retired_reservations(*, days: int) -> RetiredRows:
    """Reservations whose last change was more than ``days`` ago, with the lines of the ledger about their orders."""
    return RetiredRows("reservations", _PRUNE_PAGE, days=days)


class RetiredPuts:
    """The lines of the ledger about stock that was set more than ``days`` ago."""

    name = "stock_puts"

    def __init__(self, *, days: int) -> None:
        self._retention = timedelta(days=days)

    def prune_page(self, transaction: Transaction, position: str, limit: int) -> PrunedPage:
        """See ``Prunable``."""
        before = transaction.now - self._retention
        after = datetime.fromisoformat(position) if position else _FIRST
        ((deleted, last),) = transaction.execute(_PRUNE_PUTS, {"after": after, "before": before, "limit": limit})
        more = deleted == limit
        return PrunedPage(deleted=deleted, position=(last if more else max(after, before)).isoformat(), more=more)


def recent_events(handler: Handler, *, retention_days: int) -> Handler:
    """A handler that gets only the events whose reservations are not deleted."""
    return RecentEvents(handler, deleted_before=_DELETED_BEFORE, lock=_LOCK, retention_days=retention_days)
