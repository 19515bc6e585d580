# SPDX-License-Identifier: Apache-2.0
"""Fills the databases of a system with years of finished orders, as if they had been placed one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from orderflow.services import SERVICES

INBOX_ROWS = 5
"""Messages that an order leads to, over all services."""
INBOX_OLD_SHARE = 0.1
"""Rows of the inbox that are older than its retention of thirty days."""
_SKUS = 20
# The orders are spread over two years, up to an hour ago. One of twenty was rejected, one cancelled.
_PLANNED = """
create temporary table planned as
select n, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
           || substr(md5(n::text), 4, 15))::uuid as order_id, at,
       case n %% 20 when 0 then 'rejected' when 1 then 'cancelled' else 'confirmed' end as status,
       'sku-' || (n / 20 %% %(skus)s + 1) as sku, n %% 3 + 1 as units
from generate_series(1, %(orders)s) as n,
     lateral (select %(now)s::timestamptz - interval '1 hour' - (%(orders)s - n) * interval '2 years' / %(orders)s)
     as times (at)
"""
_TABLES: Mapping[str, Sequence[str]] = {
    "orders": (
        """
        insert into orders (order_id, user_id, items, total_amount, currency, status, reason, accepted_at, hold_until,
                            final_at, trace, reserved_at, client)
        select order_id, 'user-' || n % 100000,
               jsonb_build_array(jsonb_build_object('sku', sku, 'quantity', units, 'unit_price', 1999)), 1999 * units,
               'EUR', status, case status when 'confirmed' then null else 'payment_declined' end, at,
               at + interval '2 min', at + interval '1 s', '{}', at + interval '0.3 s', 'shop'
        from planned
        """,
        """
        insert into order_history (order_id, status, message_id, at)
        select order_id, step, order_id, at + number * interval '0.3 s'
        from planned, lateral unnest(array['accepted', 'reserved', status]) with ordinality as steps (step, number)
        where status <> 'rejected' or step <> 'reserved'
        """,
        """
        insert into idempotency (client, key, body_hash, order_id, response, created_at)
        select 'shop', md5(n::text), decode(md5(n::text), 'hex'), order_id, decode(repeat(md5(n::text), 5), 'hex'),
               now() - interval '72 hours' * n / (select max(n) from planned)
        from planned
        """,
    ),
    "inventory": (
        """
        insert into reservations (order_id, state, items, updated_at)
        select order_id, case status when 'confirmed' then 'sold' when 'cancelled' then 'released' else status end,
               jsonb_build_object(sku, units), at + interval '1 s'
        from planned
        """,
        """
        insert into stock_ledger
        select sku, order_id, kind, case kind when 'reserve' then -units when 'release' then units else 0 end,
               case kind when 'reserve' then units else -units end, case kind when 'sell' then units else 0 end, at
        from planned, lateral unnest(array['reserve', case status when 'confirmed' then 'sell' else 'release' end])
             as moves (kind)
        where status <> 'rejected'
        """,
        """
        with sold as (select sku, sum(units) as units from planned where status = 'confirmed' group by sku),
        put as (insert into stock_ledger select sku, null, 'put', units, 0, 0, now() - interval '2 years' from sold)
        update stock set on_hand = on_hand + units, sold = stock.sold + units from sold where stock.sku = sold.sku
        """,
    ),
    "payments": (
        """
        insert into charges (order_id, state, user_id, amount, currency, payment_token, charge_id, caused_by, trace,
                             created_at, updated_at)
        select order_id,
               case status when 'confirmed' then 'captured' when 'cancelled' then 'refunded' else 'declined' end,
               'user-' || n % 100000, 1999 * units, 'EUR', '',
               case status when 'rejected' then null else md5(n::text) end,
               order_id, '{}', at, at + interval '1 s'
        from planned
        """,
    ),
    "notifications": (
        """
        insert into notifications (subject, kind, state, attempts, payload, trace, created_at, updated_at)
        select order_id::text, 'order_' || status, 'sent', 1, '{}', '{}', at, at from planned
        """,
    ),
}
_INBOX = """
insert into inbox
select %(queue)s, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
                   || '8' || substr(md5(n::text), 4, 15))::uuid, at
from generate_series(1, %(rows)s) as n, lateral (
    select now() - (%(rows)s - n) * interval '30 days' / (%(rows)s * (1 - %(old)s::float8))) as times (at)
"""


def preload(databases: Mapping[str, str], orders: int) -> None:
    """Add so many finished orders with everything that belongs to them, and analyse the tables."""
    with psycopg.connect(databases["orders"]) as connection:
        ((now,),) = connection.execute("select now()").fetchall()
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(_fill, name, url, orders, now) for name, url in databases.items()]
        for filled in done:
            filled.result()


def _fill(name: str, url: str, orders: int, now: object) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set work_mem = '256MB'")
        connection.execute(_PLANNED.encode(), {"orders": orders, "skus": _SKUS, "now": now})
        connection.execute("analyze planned")
        for statement in _TABLES[name]:
            connection.execute(statement.encode())
        connection.execute("drop table planned")
        for queue, rows in _inboxes(name, orders):
            connection.execute(_INBOX.encode(), {"queue": queue, "rows": rows, "old": INBOX_OLD_SHARE})
        connection.execute("vacuum analyze")


def queues(service: str) -> list[str]:
    """The queues of a service."""
    return [queue.name for declared in SERVICES if declared.name == service for queue in declared.queues]


def _inboxes(service: str, orders: int) -> Iterator[tuple[str, int]]:
    """How many rows the inbox gets for each queue: every service has as many."""
    names = queues(service)
    for name in names:
        yield name, INBOX_ROWS * orders // len(SERVICES) // len(names)
