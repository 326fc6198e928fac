-- The statements the server runs while it serves.

-- notify --
-- A canary, through PostgreSQL to the listener and back.
SELECT pg_notify(%(channel)s, %(payload)s);

-- tables --
-- Every ordinary and partitioned table this role may read, and whether a trigger of ours is on it. Partitions are
-- left out: their root stands for them.
SELECT n.nspname AS schema,
       c.relname AS table,
       EXISTS (
           SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
           WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND p.prosrc ILIKE '%pg_notify%'
       ) AS is_watched,
       greatest(c.reltuples, 0)::bigint AS estimated_rows
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
ORDER BY 1, 2;
