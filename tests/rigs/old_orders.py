# SPDX-License-Identifier: Apache-2.0
"""Consistent rows of orders that were placed over a long time, in the tables of all four services."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import psycopg

# Order n: half confirmed, a sixth each rejected (declined, or out of stock), cancelled (and refunded), and open. Its id
# is of version 7, and it ended a minute after it was placed.
_PLANNED = """
create temporary view planned as select *, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7'
        || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid as order_id,
    at + interval '1 min' as ended,
    'sku-' || n % 7 as sku,
    case when n % 6 < 3 then 'confirmed' when n % 6 = 3 then 'rejected' when n % 6 = 4 then 'cancelled'
         when n % 12 = 5 then 'reserved' else 'accepted' end as status
from (select n, '{first}'::timestamptz + (n - 1) * interval '{step} s' as at from generate_series(1, {rows}) as n) as t;
"""
_ORDERS = """
insert into orders (order_id, user_id, items, total_amount, currency, status, accepted_at, hold_until, final_at, trace)
select order_id, 'u', jsonb_build_array(jsonb_build_object('sku', sku, 'quantity', 2, 'unit_price', 100),
    jsonb_build_object('sku', 'b', 'quantity', 1, 'unit_price', 50)), 250, 'EUR', status, at, now() + interval '1 h',
    case when status in ('accepted', 'reserved') then null else ended end, '{}' from planned;
insert into order_history (order_id, status, at) select order_id, 'accepted', at from planned;
insert into order_history (order_id, status, at) select order_id, status, ended from planned where status <> 'accepted';
insert into availability select 'sku-' || n, 1, 1, 100, 'EUR', 1000 from generate_series(0, 6) as n;
insert into availability select 'b', 1, 1, 50, 'EUR', 1000;
"""
_INVENTORY = """
insert into stock_ledger select 'sku-' || n, null, 'put', 10 * {rows}, 0, 0, '{first}' from generate_series(0, 6) as n;
insert into stock_ledger select 'b', null, 'put', 10 * {rows}, 0, 0, '{first}';
insert into stock_ledger select 'b', null, 'put', 1, 0, 0, at from planned where n % 10 = 0;
insert into reservations select order_id,
    case when status = 'confirmed' then 'sold' when status = 'reserved' then 'reserved'
         when n % 12 = 9 then 'rejected' else 'released' end, jsonb_build_object(sku, 2, 'b', 1), ended
from planned where status <> 'accepted';
create temporary view held as select order_id, state, updated_at as at, key as sku, value::int as units
from reservations, jsonb_each_text(items) where state <> 'rejected';
insert into stock_ledger select sku, order_id, 'reserve', -units, units, 0, at from held;
insert into stock_ledger select sku, order_id, 'release', units, -units, 0, at from held where state = 'released';
insert into stock_ledger select sku, order_id, 'sell', 0, -units, units, at from held where state = 'sold';
insert into stock select sku, sum(d_available + d_reserved + d_sold), sum(d_available), sum(d_reserved), sum(d_sold),
    100, 'EUR', 1000 from stock_ledger group by sku;
"""
_PAYMENTS = """
insert into charges (order_id, state, user_id, amount, currency, payment_token, charge_id, due_at, caused_by, trace,
                     created_at, updated_at)
select order_id, case status when 'confirmed' then 'captured' when 'cancelled' then 'refunded'
                             when 'rejected' then 'declined' else 'requested' end,
    'u', 250, 'EUR', '', case when status in ('confirmed', 'cancelled') then 'c-' || n end,
    case status when 'reserved' then now() + interval '1 h' end, order_id, '{}', at, ended
from planned where status <> 'accepted' and n % 12 <> 9;
"""
_NOTIFICATIONS = """
insert into notifications (subject, kind, state, payload, trace, created_at, updated_at)
select order_id::text, 'order_' || status, 'sent', '{}'::jsonb, '{}'::jsonb, ended, ended
from planned where status not in ('accepted', 'reserved')
union all select order_id::text, 'payment_refunded', 'sent', '{}'::jsonb, '{}'::jsonb, ended, ended
from planned where status = 'cancelled'
union all select sku || '@' || n, 'stock_low', 'sent', '{}'::jsonb, '{}'::jsonb, at, at from planned where n % 20 = 0;
"""
_STATEMENTS = {"orders": _ORDERS, "inventory": _INVENTORY, "payments": _PAYMENTS, "notifications": _NOTIFICATIONS}


def fill(urls: Mapping[str, str], *, rows: int, first_days_ago: float, last_days_ago: float) -> None:
    """The rows of so many orders, placed at equal intervals, in the databases of the services."""
    now = datetime.now(UTC)
    first = (now - timedelta(days=first_days_ago)).isoformat()
    step = (first_days_ago - last_days_ago) * 86_400 / max(1, rows - 1)
    for service, url in urls.items():
        statement = _STATEMENTS[service].replace("{rows}", str(rows)).replace("{first}", first)
        with psycopg.connect(url) as connection:
            connection.execute(_PLANNED.format(first=first, step=step, rows=rows).encode())
            connection.execute(statement.encode())
