-- The statements that look for changes of the schema (changefeed/journal/lookout.py).

-- schema fingerprint --
-- A value that differs after each DDL that changes what the server knows of the schema: tables, columns, keys, partitions,
-- triggers; null if no transaction has ended since the snapshot %(before)s. It runs every second, so it compares the catalog's
-- own values and formats no text. Temporary tables and partitions' columns are left out.
SELECT s.now, CASE WHEN s.now IS DISTINCT FROM %(before)s THEN concat_ws(
    ' ',
    (SELECT sum(hash_record_extended(ROW(oid, nspname), 0)) FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%%temp\_%%'),
    (
        SELECT sum(hash_record_extended(ROW(oid, relname, relnamespace, relispartition, relpersistence), 0)) FROM pg_class
        WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND oid >= 16384
    ),
    (
        -- Written when a table becomes a partition or a child, also when it is none again.
        SELECT sum(hash_record_extended(ROW(a.attrelid, a.attnum, a.attname, a.atttypid, a.attcollation, a.attisdropped, a.xmin), 0))
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition AND c.oid >= 16384
    ),
    (
        SELECT sum(hash_record_extended(ROW(t.oid, t.tgenabled, t.xmin), 0)) FROM pg_trigger AS t
        WHERE NOT t.tgisinternal AND t.tgrelid NOT IN (SELECT oid FROM pg_class WHERE relpersistence = 't')
    ),
    (
        -- Written when a table gets another name, also when it has its old one again.
        SELECT sum(hash_record_extended(ROW(y.oid, y.xmin), 0))
        FROM pg_class AS c JOIN pg_type AS y ON y.oid = c.reltype
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition AND c.oid >= 16384
    ),
    (SELECT sum(hash_record_extended(ROW(inhrelid, inhparent, inhdetachpending, xmin), 0)) FROM pg_inherits),
    (
        SELECT sum(hash_record_extended(ROW(i.indexrelid, i.indkey::int2[]), 0))
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid AND c.relpersistence <> 't' AND NOT c.relispartition
        WHERE i.indisprimary
    ),
    (SELECT sum(hash_record_extended(ROW(oid, evtenabled), 0)) FROM pg_event_trigger),
    pg_sequence_last_value(to_regclass('changefeed.noted_id')),  -- differs after a table was created, also if it is gone again
    -- These two differ after a crash and after a promotion, which empty unlogged tables.
    (SELECT extract(epoch FROM stats_reset) FROM pg_stat_bgwriter),
    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
) END
FROM (SELECT pg_current_snapshot()::text AS now) AS s;

-- may look --
-- Whether this role may, null if the schema is missing, or of a version without this function; and the journal's oid.
SELECT has_function_privilege(to_regprocedure('changefeed.look(timestamptz, text[], text[], text[], text[])'), 'EXECUTE')
   AND has_function_privilege(to_regprocedure('changefeed.note_retyped(text, text[], timestamptz)'), 'EXECUTE')
   AND has_function_privilege(to_regprocedure('changefeed.retyped_after(bigint)'), 'EXECUTE'),
       to_regclass('changefeed.journal')::oid;

-- watched names --
SELECT DISTINCT n.nspname, c.relname, to_regclass('changefeed.journal')::oid
FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace = to_regnamespace('changefeed') AND p.proname <> 'request'
JOIN pg_class AS c ON c.oid = t.tgrelid AND NOT c.relispartition
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.tgtype::int & 2 = 0;

-- look --
-- See sql/unrecorded.sql.
SELECT schema_name, table_name, is_complete, is_watched, why, is_over
FROM changefeed.look(
    %(since)s, %(schemas)s::text[], %(tables)s::text[], %(known_schemas)s::text[], %(known_tables)s::text[]
);

-- note retyped --
-- See sql/type_changes.sql.
SELECT changefeed.note_retyped(%(table)s, %(columns)s::text[], %(since)s);

-- retyped after --
SELECT number, seen::text, table_name, columns, extract(epoch FROM since)::float8, extract(epoch FROM at)::float8
FROM changefeed.retyped_after(%(number)s);
