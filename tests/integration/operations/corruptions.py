# SPDX-License-Identifier: Apache-2.0
"""Consistent data of sixty orders, and the corruptions that the reconciler must find in it."""

# Order n of 60: half confirmed, a sixth each rejected, cancelled (and refunded), and open (one reserved, one accepted).
CONSISTENT = """
create view planned as select n, ('00000000-0000-7000-8000-' || lpad(to_hex(n * 4), 12, '0'))::uuid as order_id,
    case when n % 6 < 3 then 'confirmed' when n % 6 = 3 then 'rejected' when n % 6 = 4 then 'cancelled'
         when n % 12 = 5 then 'reserved' else 'accepted' end as status
from generate_series(1, 60) as n;

insert into orders select order_id, 'u', '[{"sku": "a", "quantity": 2, "unit_price": 100}]', 200, 'EUR', status, null,
    now(), now() + interval '60 s',
    case when status in ('accepted', 'reserved') then null else now() - interval '1 h' end, '{}'
from planned;
insert into order_history (order_id, status, at) select order_id, 'accepted', now() from planned;
insert into order_history (order_id, status, at)
select order_id, status, now() from planned where status not in ('accepted');

insert into stock_ledger select 'a', null, 'put', 500, 0, 0, now();
insert into reservations select order_id,
    case status when 'confirmed' then 'sold' when 'cancelled' then 'released' when 'rejected' then 'rejected'
         else 'reserved' end, '{"a": 2}', now() from planned where status <> 'accepted';
insert into stock_ledger select 'a', order_id, 'reserve', -2, 2, 0, now() from reservations where state <> 'rejected';
insert into stock_ledger select 'a', order_id, 'release', 2, -2, 0, now() from reservations where state = 'released';
insert into stock_ledger select 'a', order_id, 'sell', 0, -2, 2, now() from reservations where state = 'sold';
insert into stock select 'a', sum(d_available + d_reserved + d_sold), sum(d_available), sum(d_reserved), sum(d_sold),
    100, 'EUR', 1 from stock_ledger;
insert into availability select sku, on_hand, available, unit_price, currency, stock_version from stock;

insert into charges (order_id, state, user_id, amount, currency, payment_token, charge_id, caused_by, trace,
                     created_at, updated_at)
select order_id, case status when 'confirmed' then 'captured' when 'cancelled' then 'refunded' else 'requested' end,
    'u', 200, 'EUR', 'ok', 'c-' || n, order_id, '{}', now(), now() from planned where status not in ('accepted');
insert into notifications (subject, kind, state, payload, trace, created_at, updated_at)
select order_id::text, 'order_' || status, 'sent', '{}', '{}', now(), now()
from planned where status not in ('accepted', 'reserved');
"""

A_CONFIRMED = "(select order_id from planned where status = 'confirmed' order by n limit 1)"
A_REJECTED = "(select order_id from planned where status = 'rejected' order by n limit 1)"
A_CANCELLED = "(select order_id from planned where status = 'cancelled' order by n limit 1)"
UNKNOWN_ORDER = "'99999999-0000-7000-8000-000000000000'"

# Each corruption: its statement, and the check of the reconciler that must fail.
CORRUPTIONS = {
    "a confirmed order was never charged": (f"delete from charges where order_id = {A_CONFIRMED}", "charge_mismatches"),
    "a confirmed order was charged too little": (
        f"update charges set amount = 1 where order_id = {A_CONFIRMED}",
        "charge_mismatches",
    ),
    "a rejected order's charge was kept": (
        f"update charges set state = 'captured' where order_id = {A_REJECTED}",
        "charge_mismatches",
    ),
    "an unknown order was charged": (
        (
            f"update charges set order_id = {UNKNOWN_ORDER} where order_id = {A_REJECTED};"
            f"update charges set state = 'captured' where order_id = {UNKNOWN_ORDER}"
        ),
        "charge_mismatches",
    ),
    "one charge stands for two orders": (
        "update charges set charge_id = 'c-1' where charge_id = 'c-2'",
        "duplicate_charges",
    ),
    "an order was charged twice": (
        (
            "alter table charges drop constraint charges_pkey;"
            f"insert into charges select * from charges where order_id = {A_CONFIRMED}"
        ),
        "duplicate_charges",
    ),
    "a customer was notified of two ends": (
        (
            "insert into notifications select subject, 'order_rejected', state, attempts, due_at, payload, trace,"
            " reason, created_at, updated_at from notifications where kind = 'order_confirmed' limit 1"
        ),
        "duplicate_notifications",
    ),
    "a customer was notified of an end twice": (
        (
            "alter table notifications drop constraint notifications_pkey;"
            "insert into notifications select * from notifications limit 1"
        ),
        "duplicate_notifications",
    ),
    "an order ended twice": (
        f"insert into order_history (order_id, status, at) values ({A_CONFIRMED}, 'rejected', now())",
        "ended_twice",
    ),
    "a sale left no line in the ledger": (
        f"delete from stock_ledger where kind = 'sell' and order_id = {A_CONFIRMED}",
        "drift",
    ),
    "stock changed without a line in the ledger": (
        "update stock set available = available - 1, sold = sold + 1",
        "drift",
    ),
    "stock was released twice": (
        "update stock set available = available + 2, on_hand = on_hand + 2",
        "drift",
    ),
    "a reservation was lost": ("delete from reservations where state = 'reserved'", "drift"),
    "more was sold than was there": ("update stock_ledger set d_available = 40 where kind = 'put'", "oversold"),
    "orders were confirmed for a SKU without stock": (
        (
            f"""update orders set items = '[{{"sku": "ghost", "quantity": 7, "unit_price": 1}}]'"""
            f" where order_id = {A_CONFIRMED}"
        ),
        "oversold",
    ),
    "a confirmed order was never sold": (
        (
            f"update reservations set state = 'reserved' where order_id = {A_CONFIRMED};"
            f"delete from stock_ledger where kind = 'sell' and order_id = {A_CONFIRMED};"
            "update stock set reserved = reserved + 2, sold = sold - 2"
        ),
        "stock_mismatches",
    ),
    "a confirmed order took nothing": (
        (
            f"delete from reservations where order_id = {A_CONFIRMED};"
            f"delete from stock_ledger where order_id = {A_CONFIRMED};"
            "update stock set available = available + 2, sold = sold - 2"
        ),
        "stock_mismatches",
    ),
    "a cancelled order still holds its units": (
        (
            f"update reservations set state = 'reserved' where order_id = {A_CANCELLED};"
            f"delete from stock_ledger where kind = 'release' and order_id = {A_CANCELLED};"
            "update stock set reserved = reserved + 2, available = available - 2"
        ),
        "stock_mismatches",
    ),
    "a cancelled order was sold": (
        (
            f"update reservations set state = 'sold' where order_id = {A_CANCELLED};"
            f"delete from stock_ledger where kind = 'release' and order_id = {A_CANCELLED};"
            f"insert into stock_ledger values ('a', {A_CANCELLED}, 'sell', 0, -2, 2, now());"
            "update stock set sold = sold + 2, available = available - 2"
        ),
        "stock_mismatches",
    ),
    "an unknown order holds units": (
        f"update reservations set order_id = {UNKNOWN_ORDER} where order_id = {A_CONFIRMED}",
        "stock_mismatches",
    ),
    "a refund never succeeds": (
        f"update charges set state = 'refund_requested' where order_id = {A_CANCELLED}",
        "charge_mismatches",
    ),
    "an order that ended has no end in its history": (
        f"delete from order_history where status = 'confirmed' and order_id = {A_CONFIRMED}",
        "ended_twice",
    ),
    "the orders API shows an old stock": (
        "update availability set stock_version = 0, available = available + 1",
        "stale_availability",
    ),
    "the orders API lacks a product": ("delete from availability", "stale_availability"),
    "the customer was not notified of the end of an order": (
        f"delete from notifications where subject = {A_CONFIRMED}::text",
        "missing_notifications",
    ),
    "a notification was given up": (
        f"update notifications set state = 'failed' where subject = {A_CONFIRMED}::text",
        "missing_notifications",
    ),
    "an order is open long after its hold": (
        (
            "update orders set hold_until = now() - interval '1 hour', accepted_at = now() - interval '2 hours'"
            " where status = 'reserved'"
        ),
        "stuck",
    ),
}
