-- The client that placed an order: the name of its API key. Null in orders of versions before; every client sees those.

alter table orders add column client text;
