-- The reconciler reads the lines that are new. Nothing reads the lines of a SKU.

create index if not exists stock_ledger_at on stock_ledger (at);
drop index if exists stock_ledger_sku;
