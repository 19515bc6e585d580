-- When the stock of an order was reserved: its hold begins then. Null before, and in rows of version 0.1.0.

alter table orders add column reserved_at timestamptz;
