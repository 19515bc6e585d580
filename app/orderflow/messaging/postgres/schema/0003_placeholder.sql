-- Placeholder for the migration that another change numbers; delete it when merging.
select 1;
