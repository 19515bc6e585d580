# SPDX-License-Identifier: Apache-2.0
"""Deletes old orders and their history, and keeps their sums."""

from orderflow.messaging.retention import RetiredRows

# Open orders stay. An order has a few rows of history, so a page has a quarter of the rows.
_PRUNE_PAGE = """
with page as materialized (
    select ctid, order_id from orders where order_id > %(after)s and order_id < %(bound)s
    order by order_id limit %(limit)s / 4),
retired as (
    delete from orders where ctid = any(array(select ctid from page)) and final_at < %(before)s
    returning order_id, status, currency, total_amount, items),
steps as (delete from order_history where order_id = any(array(select order_id from retired))),
counted as (
    insert into retired_orders (status, currency, orders, amount, before)
    select status, currency, count(*), sum(total_amount), %(before)s from retired group by status, currency
    on conflict (status, currency) do update set orders = retired_orders.orders + excluded.orders,
        amount = retired_orders.amount + excluded.amount, before = greatest(retired_orders.before, excluded.before)),
summed as (
    insert into retired_units (sku, units)
    select line ->> 'sku', sum((line ->> 'quantity')::bigint) from retired, jsonb_array_elements(items) as line
    where status = 'confirmed' group by 1
    on conflict (sku) do update set units = retired_units.units + excluded.units)
select (select count(*) from retired), (select count(*) from page) = %(limit)s / 4,
       (select order_id from page order by order_id desc limit 1)
"""


def retired_orders(*, days: int) -> RetiredRows:
    """Orders that ended more than ``days`` ago."""
    return RetiredRows("orders", _PRUNE_PAGE, days=days)
