-- The statements the server runs while it serves.

-- notify --
-- Sends a canary through PostgreSQL to the listener. It waits for no disk, no standby, and no other commit.
SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '1s', true), pg_notify(%(channel)s, %(payload)s);

-- tables --
-- Every table that this role may read, or whose changes the journal has, and what watches it: the journal, a trigger that
-- notifies, or nothing. Partitions are left out: their root represents them. Of each function's text only the beginning is
-- searched, once, however many triggers call it.
WITH notifiers AS MATERIALIZED (
    SELECT p.oid FROM pg_proc AS p
    WHERE p.oid IN (SELECT tgfoid FROM pg_trigger WHERE NOT tgisinternal)
      AND left(p.prosrc, 100000) COLLATE "C" ILIKE '%pg_notify%'
), callable AS MATERIALIZED (
    -- Null without the schema, which the first watch installs.
    SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')) FILTER (WHERE p.proname IN ('watch', 'apply')) AS watch,
           bool_and(has_function_privilege(p.oid, 'EXECUTE')) FILTER (WHERE p.proname IN ('unwatch', 'apply', 'try_to_apply')) AS unwatch
    FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('changefeed')
)
SELECT n.nspname AS schema,
       c.relname AS table,
       CASE
           WHEN bool_or(p.pronamespace = to_regnamespace('changefeed') AND p.proname IN ('record', 'record_strict')) THEN 'journal'
           WHEN bool_or(p.oid IN (SELECT oid FROM notifiers)) THEN 'notify'
       END AS watched_by,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS estimated_rows,  -- null until the first ANALYZE or VACUUM
       -- Whether this role has the rights to watch it or, if the journal watches it, to end that.
       CASE
           WHEN bool_or(p.pronamespace = to_regnamespace('changefeed') AND p.proname IN ('record', 'record_strict'))
               THEN coalesce((SELECT unwatch FROM callable), false) AND pg_has_role(c.relowner, 'USAGE')
           ELSE coalesce((SELECT watch FROM callable), has_database_privilege(current_database(), 'CREATE'))
               AND has_table_privilege(c.oid, 'TRIGGER')
       END AS can_change
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
LEFT JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'changefeed')
  AND (
      has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
      OR EXISTS (
          SELECT FROM pg_trigger AS ours JOIN pg_proc AS f ON f.oid = ours.tgfoid
          WHERE ours.tgrelid = c.oid AND f.pronamespace = to_regnamespace('changefeed')
      )
  )
GROUP BY n.nspname, c.oid, c.relname, c.reltuples, c.relowner
ORDER BY 1, 2;

-- has journal --
SELECT to_regclass('changefeed.meta') IS NOT NULL;

-- missing roles --
SELECT name FROM unnest(%(roles)s::text[]) AS named (name) WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name);

-- distrusted owner --
-- Owners of functions that could run code as this role: functions of the schema run with the rights of their caller. So a
-- superuser calls only those of superusers; another role those of superusers, of the schema's owner, and its own. After
-- SET ROLE the session's own role counts too: code can reset it.
SELECT quote_ident(r.rolname)
FROM pg_namespace AS n
JOIN pg_roles AS me ON me.rolname IN (session_user, current_user)
CROSS JOIN LATERAL (
    SELECT n.nspowner
    UNION SELECT p.proowner FROM pg_proc AS p WHERE p.pronamespace = n.oid
    UNION SELECT c.relowner FROM pg_class AS c WHERE c.relnamespace = n.oid
) AS o (owner)
JOIN pg_roles AS r ON r.oid = o.owner
WHERE n.nspname IN ('changefeed', 'changefeed_secret') AND NOT r.rolsuper AND r.oid <> me.oid
  AND (me.rolsuper OR r.oid <> n.nspowner)
LIMIT 1;

-- find journal --
-- Whether it is there, as of which snapshot, and whether it is whole: pg_restore makes functions, then the table, then its row, then
-- its key. An empty schema is whole, too: it may have been made to install into it.
SELECT to_regclass('changefeed.meta') IS NOT NULL, pg_current_snapshot()::text,
       CASE WHEN to_regclass('changefeed.meta') IS NOT NULL
           THEN EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass('changefeed.meta') AND i.indisprimary)
           ELSE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = to_regnamespace('changefeed'))
               AND NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('changefeed'))
       END;

-- schema version --
SELECT version FROM changefeed.meta;

-- fail if changed --
-- Within sql/install.sql, after its guard, which has locked changefeed.meta: fails unless the schema is whole and has this version,
-- null if there is none.
DO $unchanged$
DECLARE
    expected constant integer := %(version)s;
    found integer;
BEGIN
    IF to_regclass('changefeed.meta') IS NOT NULL THEN
        found := coalesce((SELECT max(m.version) FROM changefeed.meta AS m), 0);
    END IF;
    IF found IS DISTINCT FROM expected
        OR found IS NOT NULL
            AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass('changefeed.meta') AND i.indisprimary)
        OR found IS NULL AND (
            EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = to_regnamespace('changefeed'))
            OR EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('changefeed'))
        )
    THEN
        RAISE EXCEPTION 'the schema changefeed has changed meanwhile'
            USING ERRCODE = 'CF010', HINT = 'Nothing was changed. Try again.';
    END IF;
END
$unchanged$;

-- schema differs --
-- The objects of this server's sql/install.sql that are missing or different (see changefeed/journal/installation.py).
SELECT f.name || '()' FROM unnest(%(functions)s::text[], %(digests)s::text[]) AS f (name, digest)
WHERE NOT EXISTS (
    SELECT FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace('changefeed') AND p.proname = f.name AND md5(p.prosrc) = f.digest
)
UNION
SELECT r.name || '.' || r.column_name FROM unnest(%(relations)s::text[], %(columns)s::text[]) AS r (name, column_name)
WHERE NOT EXISTS (
    SELECT FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = r.column_name AND NOT a.attisdropped
    WHERE c.relnamespace = to_regnamespace('changefeed') AND c.relname = r.name
)
ORDER BY 1;

-- may start over --
-- Whether this role may. A query of its own: PostgreSQL checks the right to call a function even if the call is not reached.
SELECT has_table_privilege('changefeed.journal', 'SELECT') AND has_table_privilege('changefeed.journal', 'DELETE')
   AND has_column_privilege('changefeed.meta', 'epoch', 'UPDATE')
   AND has_function_privilege('changefeed.begin_anew_if_restored()', 'EXECUTE');

-- start over if restored --
-- Runs before the journal is identified, because it gives the journal another epoch.
SELECT changefeed.begin_anew_if_restored();

-- identify journal --
-- Which journal this is, and its version. A dump and restore keeps the uuid, but not the cluster's system identifier, the
-- database's oid or, over the same database, the journal's own oid. Restored files keep all of these: then the places
-- themselves are no longer proven (sql/read.sql). The second column is the name that servers before version 5 gave it. Last,
-- two keys of 32 bytes that are derived from secrets: one encrypts the cursors of clients that may not see every table, the
-- other verifies what changefeed.cursor() signs (sql/cursor.sql).
SELECT md5(concat_ws(' ', m.epoch, c.system_identifier, d.oid, 'changefeed.journal'::regclass::oid)),
       md5(concat_ws(' ', m.epoch, c.system_identifier, p.timeline_id, d.oid)),
       concat_ws(' ', m.epoch, 'changefeed.journal'::regclass::oid),
       m.version, coalesce((to_jsonb(m) ->> 'readable_from')::integer, m.version),
       encode(sha256(convert_to('seal cursors ' || m.epoch, 'UTF8')), 'hex'),
       encode(sha256(convert_to(
           concat_ws(' ', 'sign cursors', m.epoch, c.system_identifier, d.oid, 'changefeed.journal'::regclass::oid), 'UTF8'
       )), 'hex')
FROM changefeed.meta AS m, pg_control_system() AS c, pg_control_checkpoint() AS p, pg_database AS d
WHERE d.datname = current_database();

-- read --
-- An entry larger than %(row_limit_bytes)s becomes a loss; the last column is its size. The journal's state, in the last row, is
-- one column: thirteen columns, null in all other rows, would be a tenth of the server's cost of a large page.
SELECT id, xid, at, CASE WHEN s.too_large IS NULL THEN action ELSE 'L' END, schema_name, table_name,
       CASE WHEN s.too_large IS NULL THEN data END, CASE WHEN s.too_large IS NULL THEN old END,
       CASE WHEN s.too_large IS NULL THEN row_count END,
       CASE WHEN id IS NULL THEN json_build_array(
           nested, snapshot, has_more, lost_xid, lost_id, lost_at, losses, proven_at, batch_at, present, identity, taken, awake_ms
       )::text END,
       s.too_large
FROM changefeed.read(%(previous)s, %(batch)s, %(after)s, %(row_limit)s, %(byte_limit)s),
    LATERAL (SELECT coalesce(octet_length(data), 0) + coalesce(octet_length(old), 0)) AS b (bytes),
    LATERAL (SELECT CASE WHEN b.bytes > %(row_limit_bytes)s THEN b.bytes END) AS s (too_large);

-- read without rows --
-- The same for --payload off: no row is read. (A loss has no row, but perhaps a reason.)
SELECT id, xid, at, action, schema_name, table_name, CASE action WHEN 'L' THEN data END, NULL, row_count,
       CASE WHEN id IS NULL THEN json_build_array(
           nested, snapshot, has_more, lost_xid, lost_id, lost_at, losses, proven_at, batch_at, present, identity, taken, awake_ms
       )::text END,
       NULL
FROM changefeed.read(%(previous)s, %(batch)s, %(after)s, %(row_limit)s, %(byte_limit)s);

-- read of version 4 --
-- For a schema of version 4, whose places prove nothing.
SELECT id, xid, at, CASE WHEN s.too_large IS NULL THEN action ELSE 'L' END, schema_name, table_name,
       CASE WHEN s.too_large IS NULL THEN data END, CASE WHEN s.too_large IS NULL THEN old END,
       CASE WHEN s.too_large IS NULL THEN row_count END,
       CASE WHEN id IS NULL THEN json_build_array(
           NULL, snapshot, has_more, lost_xid, lost_id, NULL, losses, NULL, NULL, NULL, NULL, NULL, NULL
       )::text END,
       s.too_large
FROM changefeed.read(%(previous)s, %(batch)s, %(after)s, %(row_limit)s, %(byte_limit)s),
    LATERAL (SELECT coalesce(octet_length(data), 0) + coalesce(octet_length(old), 0)) AS b (bytes),
    LATERAL (SELECT CASE WHEN b.bytes > %(row_limit_bytes)s THEN b.bytes END) AS s (too_large);

-- read without rows of version 4 --
SELECT id, xid, at, action, schema_name, table_name, NULL, NULL, row_count,
       CASE WHEN id IS NULL THEN json_build_array(
           NULL, snapshot, has_more, lost_xid, lost_id, NULL, losses, NULL, NULL, NULL, NULL, NULL, NULL
       )::text END,
       NULL
FROM changefeed.read(%(previous)s, %(batch)s, %(after)s, %(row_limit)s, %(byte_limit)s);

-- contents --
-- The contents of entries that are known to be visible; only the size of those larger than %(row_limit_bytes)s.
SELECT j.id, CASE WHEN s.too_large IS NULL THEN j.data::text END, CASE WHEN s.too_large IS NULL THEN j.old::text END, s.too_large
FROM changefeed.journal AS j,
    LATERAL (SELECT coalesce(octet_length(j.data::text), 0) + coalesce(octet_length(j.old::text), 0)) AS b (bytes),
    LATERAL (SELECT CASE WHEN b.bytes > %(row_limit_bytes)s THEN b.bytes END) AS s (too_large)
WHERE j.id = ANY (%(ids)s::bigint[]);

-- what was deleted --
-- By retention: see sql/retention.sql.
SELECT number, snapshot::text, xids, ids FROM changefeed.what_was_taken();

-- witness --
-- When the last entry of the transaction %(xid)s was made; the newest transaction that retention deleted, and when its last
-- entry was made; and whether the entry %(id)s is there, unless that is 0 or retention deleted it.
SELECT (
           SELECT (extract(epoch FROM j.at) * 1000000)::bigint
           FROM changefeed.journal AS j WHERE j.xid = %(xid)s::xid8 ORDER BY j.id DESC LIMIT 1
       ),
       x.last_value, t.last_value,
       %(id)s <= i.last_value OR EXISTS (SELECT FROM changefeed.journal AS j WHERE j.id = %(id)s)
FROM changefeed.lost_xid AS x, changefeed.lost_at AS t, changefeed.lost_id AS i;

-- last entries --
-- Of each transaction of a batch; see sql/read.sql.
SELECT id, xid, at FROM changefeed.last_entries(%(previous)s, %(batch)s, %(most)s);

-- running --
-- Each transaction that has an id holds a lock on it until it ends.
SELECT l.transactionid::text::bigint FROM pg_locks AS l
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted;

-- missing --
-- Entries that were read before, and are gone although retention did not delete them.
SELECT e.id FROM unnest(%(ids)s::bigint[], %(xids)s::xid8[]) AS e (id, xid), changefeed.lost_id AS lost
WHERE e.id > lost.last_value AND NOT EXISTS (SELECT FROM changefeed.journal AS j WHERE j.id = e.id AND j.xid = e.xid)
ORDER BY 1;

-- primary keys --
-- For --payload keys: the columns of the primary key, of each of these tables that has one, as it is now.
SELECT asked.schema_name, asked.table_name, array_agg(a.attname::text)
FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS asked (schema_name, table_name)
JOIN pg_namespace AS n ON n.nspname = asked.schema_name
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.table_name
JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
GROUP BY 1, 2;

-- start of the newest --
-- The lowest transaction of the %(entries)s newest entries, and their lowest id: at its start the server reads them into memory
-- from there on, so that one larger transaction does not delay the start. If there are no entries: the transaction behind the
-- last one that retention deleted, and null. Running transactions prove nothing (see sql/read.sql).
WITH newest AS (SELECT id, xid FROM changefeed.journal ORDER BY id DESC LIMIT %(entries)s)
SELECT coalesce((SELECT xid::text FROM newest ORDER BY xid LIMIT 1), (SELECT (last_value + 1)::text FROM changefeed.lost_xid)),
       (SELECT min(id) FROM newest);

-- activity --
-- Counts, by table and action, those of the %(limit)s newest entries below the id %(below)s that %(snapshot)s sees: in steps of a
-- second from the time %(seconds_from)s on, before that of ten seconds from %(tens_from)s on, before that of a minute. What is
-- older than %(minutes_from)s is one step, of a day. Each count has the time of its oldest entry, which journal this is, the
-- lowest id that was read, and how many were read: the next part continues below it. In parts, so that no other query waits
-- long. If nothing was counted, the columns of the count are null.
WITH part AS MATERIALIZED (
    SELECT j.id, j.xid, date_part('epoch', j.at) AS at, j.action, j.schema_name, j.table_name, j.row_count
    FROM changefeed.journal AS j WHERE j.id < %(below)s ORDER BY j.id DESC LIMIT %(limit)s
), counted AS (
    SELECT c.step, (floor(c.at / c.step) * c.step)::bigint AS begins, c.schema_name, c.table_name, c.action::text AS action,
           least(sum(greatest(coalesce(c.row_count, 1), 0)), 9007199254740991)::bigint AS count,  -- what JSON can tell
           min(c.at) AS first_at
    FROM (
        SELECT p.*, CASE WHEN p.at >= %(seconds_from)s THEN 1 WHEN p.at >= %(tens_from)s THEN 10
                         WHEN p.at >= %(minutes_from)s THEN 60 ELSE 86400 END AS step
        FROM part AS p WHERE p.action <> 'L' AND pg_visible_in_snapshot(p.xid, %(snapshot)s::pg_snapshot)
    ) AS c GROUP BY 1, 2, 3, 4, 5
)
SELECT w.identity, w.lowest, w.looked_at, c.*
FROM (
    SELECT concat_ws(' ', (SELECT epoch FROM changefeed.meta), 'changefeed.journal'::regclass::oid) AS identity,
           min(id) AS lowest, count(*) AS looked_at
    FROM part
) AS w LEFT JOIN counted AS c ON true;

-- clock --
SELECT extract(epoch FROM clock_timestamp())::double precision;

-- first since --
-- The id of the first visible entry that was made at %(at)s or later; null if there is none. Ids are drawn when entries are made,
-- but all entries of a large statement have the time when it began. So bisection first finds an id below which no entry is that
-- new, if no statement takes longer than %(margin)s seconds; from there on entries are read one by one.
WITH RECURSIVE halves (below, above) AS (
    SELECT (SELECT id - 1 FROM changefeed.journal ORDER BY id LIMIT 1), (SELECT id FROM changefeed.journal ORDER BY id DESC LIMIT 1)
    UNION ALL
    SELECT CASE WHEN j.at < to_timestamp(%(at)s) - make_interval(secs => %(margin)s) THEN j.id ELSE h.below END,
           CASE WHEN j.at < to_timestamp(%(at)s) - make_interval(secs => %(margin)s) THEN h.above ELSE (h.below + h.above) / 2 END
    FROM halves AS h CROSS JOIN LATERAL (
        SELECT j.id, j.at FROM changefeed.journal AS j WHERE j.id > (h.below + h.above) / 2 ORDER BY j.id LIMIT 1
    ) AS j
    WHERE h.below + 1 < h.above
)
SELECT (
    SELECT j.id FROM changefeed.journal AS j
    WHERE j.id > (SELECT max(below) FROM halves) AND j.at >= to_timestamp(%(at)s) ORDER BY j.id LIMIT 1
);

-- take lease --
-- Takes or renews the lease, for %(ms)s from now, or gives it back (0), unless changefeed.lease is off; see sql/journal.sql.
-- It does not wait for the disk: a crash ends the lease.
SELECT set_config('synchronous_commit', 'off', true),
       setval(
           'changefeed.awake_until',
           CASE WHEN %(ms)s > 0 THEN (date_part('epoch', clock_timestamp()) * 1000)::bigint + %(ms)s ELSE 0 END
       )
WHERE coalesce(nullif(current_setting('changefeed.lease', true), ''), 'on') = 'on';

-- announce lease --
-- Wakes the other servers. Not while commits that notify hang: then the servers find the changes by their sweep.
SELECT set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '1s', true), pg_notify('changefeed', '');

-- watch --
-- The table of this schema and name, unless there is none.
SELECT changefeed.watch(
    c.oid, omit => %(omit)s::text[], row_limit => %(row_limit)s::bigint, strict => %(strict)s, hash => %(hash)s::text[]
)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(table)s::text;

-- change as before --
-- Watches the table with these options, or unwatches it, if it still has the options %(before)s, as JSON; else returns null. Callers
-- wait for each other, so that none takes back what another has just changed: the second statement sees what that has committed.
SELECT FROM changefeed.meta FOR NO KEY UPDATE;
SELECT CASE
    WHEN coalesce(o.options, '{"omit": [], "row_limit": null, "strict": false, "hash": []}') <> %(before)s::jsonb THEN NULL
    WHEN %(unwatches)s THEN changefeed.unwatch(c.oid)
    ELSE changefeed.watch(
        c.oid, omit => %(omit)s::text[], row_limit => %(row_limit)s::bigint, strict => %(strict)s, hash => %(hash)s::text[]
    )
END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT jsonb_build_object(
        'omit', s.omit, 'row_limit', s.row_limit, 'strict', s.strict, 'hash', coalesce(to_jsonb(s) -> 'hash', '[]')
    )
    FROM changefeed.status() AS s WHERE s.schema_name = n.nspname AND s.table_name = c.relname
) AS o (options) ON true
WHERE n.nspname = %(schema)s::text AND c.relname = %(table)s::text;

-- watch unless watched --
-- The same, without options. A table that is watched by now keeps those it has.
SELECT changefeed.watch(c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(table)s::text
  AND NOT EXISTS (
      SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
      WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('changefeed') AND p.proname <> 'request'
  );

-- named tables --
-- Those tables of these pairs of schema and name that exist.
SELECT n.nspname, c.relname
FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS named (schema_name, table_name)
JOIN pg_namespace AS n ON n.nspname = named.schema_name
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = named.table_name;

-- tables like --
-- The tables that --watch names, by a schema and a table or the whole schema, and whether each has our triggers already. Without
-- partitions, which come with their root, temporary tables, and our own.
SELECT n.nspname, c.relname,
       EXISTS (
           SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
           WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('changefeed') AND p.proname <> 'request'
       )
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname <> 'changefeed'
  AND n.nspname = %(schema)s::text AND c.relname = coalesce(%(table)s::text, c.relname)
ORDER BY 1, 2;

-- refresh --
SELECT changefeed.refresh();

-- retain --
SELECT changefeed.retain(make_interval(secs => %(seconds)s), %(bytes)s);

-- journal status --
SELECT s.bytes, to_json(s.oldest AT TIME ZONE 'UTC') #>> '{}' || 'Z', to_json(s.newest AT TIME ZONE 'UTC') #>> '{}' || 'Z',
       s.losses
FROM changefeed.journal_status() AS s;

-- journal figures --
-- Its size, the age of its oldest entry in seconds (0 where it is empty), and how many statements it could not record.
SELECT s.bytes, coalesce(extract(epoch FROM clock_timestamp() - s.oldest), 0)::float8, s.losses
FROM changefeed.journal_status() AS s;

-- queue usage --
-- How full PostgreSQL's queue of notifications is, from 0 to 1.
SELECT pg_notification_queue_usage();

-- watched tables --
-- Before version 3 of the schema status() has no column for hashes, because nothing was hashed.
SELECT schema_name, table_name, is_complete, omit, row_limit, strict, partitions,
       ARRAY(SELECT jsonb_array_elements_text(to_jsonb(s) -> 'hash'))
FROM changefeed.status() AS s;

-- gone columns --
-- Columns of `omit` or `hash` that are gone, with their tables, and whether another column has the name now.
SELECT n.nspname, c.relname, h.name, a.attnum IS NOT NULL
FROM changefeed.watched() AS w JOIN pg_class AS c ON c.oid = w.target JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT jsonb_array_elements_text(w.options -> 'omit') UNION SELECT jsonb_array_elements_text(w.options -> 'hash')
) AS h (name)
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = h.name AND a.attnum > 0 AND NOT a.attisdropped
WHERE a.attnum IS NULL OR w.options ? 'numbers' AND a.attnum IS DISTINCT FROM (w.options -> 'numbers' ->> h.name)::integer
   OR (w.options ->> 'gone_in')::oid <> c.oid
ORDER BY 1, 2, 3;

-- column numbers --
-- Of the columns of `omit` and `hash`, by name.
SELECT coalesce(w.options -> 'numbers', '{}')
FROM changefeed.watched() AS w JOIN pg_class AS c ON c.oid = w.target JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(table)s::text;

-- has plain triggers --
-- Whether a trigger that is not ours sends notifications: those are lost while no server listens.
-- Of each function's text as in "tables".
SELECT EXISTS (
    SELECT FROM pg_proc AS p
    WHERE p.oid IN (SELECT tgfoid FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D')
      AND left(p.prosrc, 100000) COLLATE "C" ILIKE '%pg_notify%'
      AND p.pronamespace <> coalesce(to_regnamespace('changefeed'), 0::oid)
);

-- others with triggers --
-- Relations that are not in "columns" and have a trigger of the user's, whose notifications may name them without a schema.
SELECT DISTINCT n.nspname, c.relname
FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace <> coalesce(to_regnamespace('changefeed'), 0::oid)
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND (c.relkind NOT IN ('r', 'p') OR c.relispartition OR c.relpersistence = 't');

-- relations without changes --
-- Those that a client may take for tables, and what to ask for instead.
SELECT n.nspname, c.relname,
       CASE
           WHEN c.relispartition THEN 'a partition: ask for the table that it is a part of'
           WHEN c.relkind = 'f' THEN 'a foreign table, which has no changes here'
           ELSE 'a view, which has no changes: ask for the tables that it takes its rows from'
       END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (c.relkind IN ('v', 'm', 'f') OR c.relkind IN ('r', 'p') AND c.relispartition)
  AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'changefeed');

-- columns --
-- The columns of every table and how their values compare, for clients' filters; columns of `omit` never leave the table.
-- For types that are not named here, only PostgreSQL knows which texts mean the same value.
-- The key is the primary key's columns. The last value differs if a column has another name, type or collation: see the next query.
WITH RECURSIVE base AS (
    SELECT t.oid AS type, t.oid AS base, t.typtype FROM pg_type AS t
    UNION ALL
    SELECT b.type, t.typbasetype, u.typtype
    FROM base AS b JOIN pg_type AS t ON t.oid = b.base JOIN pg_type AS u ON u.oid = t.typbasetype
    WHERE b.typtype = 'd'
),
kinds (type, kind) AS (
    VALUES ('pg_catalog.int2'::regtype, 'number'), ('pg_catalog.int4', 'number'), ('pg_catalog.int8', 'number'),
           ('pg_catalog.numeric', 'number'), ('pg_catalog.float4', 'float4'), ('pg_catalog.float8', 'float8'),
           ('pg_catalog.bool', 'boolean'), ('pg_catalog.uuid', 'uuid'), ('pg_catalog.bytea', 'bytea'),
           ('pg_catalog.date', 'date'), ('pg_catalog.time', 'time'), ('pg_catalog.timetz', 'timetz'),
           ('pg_catalog.timestamp', 'timestamp'), ('pg_catalog.timestamptz', 'timestamptz'),
           ('pg_catalog.interval', 'interval'), ('pg_catalog.text', 'text'), ('pg_catalog.varchar', 'text'),
           ('pg_catalog.name', 'text'), ('pg_catalog.bpchar', 'padded'), ('pg_catalog.inet', 'inet'),
           ('pg_catalog.cidr', 'cidr'), ('pg_catalog.macaddr', 'macaddr'), ('pg_catalog.macaddr8', 'macaddr8'),
           ('pg_catalog."bit"', 'bit'), ('pg_catalog.varbit', 'bit'), ('pg_catalog.json', 'nothing'),
           ('pg_catalog.jsonb', 'nothing')
)
SELECT n.nspname, c.relname,
       array_agg(a.attname::text ORDER BY a.attnum),
       array_agg(
           CASE
               WHEN t.typtype = 'e' THEN 'enum'
               WHEN t.typtype = 'c' THEN 'nothing'
               WHEN k.kind IS NULL OR NOT l.collisdeterministic THEN 'null_only'
               ELSE k.kind
           END ORDER BY a.attnum
       ),
       coalesce((
           SELECT array_agg(k.attname::text)
           FROM pg_index AS i JOIN pg_attribute AS k ON k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey)
           WHERE i.indrelid = c.oid AND i.indisprimary
       ), '{}'),
       sum(hash_record_extended(ROW(a.attname, a.atttypid, a.attcollation), 0))::text
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN base AS b ON b.type = a.atttypid AND b.typtype <> 'd'
JOIN pg_type AS t ON t.oid = b.base
LEFT JOIN kinds AS k ON k.type = b.base
LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'changefeed')
GROUP BY c.oid, n.nspname, c.relname;

-- column types --
-- The last value of the query before, of some tables, which takes next to no time.
SELECT n.nspname, c.relname, sum(hash_record_extended(ROW(a.attname, a.atttypid, a.attcollation), 0))::text
FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS asked (schema_name, table_name)
JOIN pg_namespace AS n ON n.nspname = asked.schema_name
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = asked.table_name AND c.relkind IN ('r', 'p')
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\_%%' AND n.nspname NOT IN ('information_schema', 'changefeed')
GROUP BY c.oid, n.nspname, c.relname;

-- rows source --
-- In the transaction that reads rows, after LOCK TABLE: the cursor of its snapshot, and what to read (see sql/rows.sql).
SELECT changefeed.cursor(), s.source, s.names, s.quoted_names, s.expressions, s.hashed, s.key, current_setting('server_encoding'),
    ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attgenerated = 'v')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
    changefeed.rows_source(c.oid, %(trusted)s::text[]) AS s
WHERE n.nspname = %(schema)s::text AND c.relname = %(table)s::text;

-- next rows --
SELECT changefeed.next_rows('reading', %s, %s);

-- missing rights --
-- The grants that this role needs to read the table and does not have.
SELECT (
    SELECT string_agg(g.grant_text, '; ')
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN LATERAL (
        SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', n.nspname, session_user)
        WHERE NOT has_schema_privilege(n.oid, 'USAGE')
        UNION ALL
        SELECT format('GRANT SELECT ON %%I.%%I TO %%I', n.nspname, c.relname, session_user)
        WHERE NOT has_table_privilege(c.oid, 'SELECT')
    ) AS g (grant_text)
    WHERE n.nspname = %(schema)s::text AND c.relname = %(table)s::text
);
