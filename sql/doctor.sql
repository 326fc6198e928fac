-- The queries of `.venv/bin/python server.py doctor`. All are read-only.

-- server --
SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
       current_setting('max_prepared_transactions')::int, coalesce(current_setting('changefeed.notify', true), ''),
       current_user::text, quote_ident(current_user), quote_ident(current_database());

-- installation --
-- Whether the schema exists, and whether this role could create it.
SELECT to_regnamespace('changefeed') IS NOT NULL, has_database_privilege(current_database(), 'CREATE');

-- rights --
-- Whether this role may read the journal, whether it may maintain it, and who owns it.
SELECT has_schema_privilege(n.oid, 'USAGE')
       AND NOT EXISTS (
           SELECT FROM pg_class AS c
           WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'S')
             AND c.relname NOT IN ('recorded', 'truncation', 'noted', 'retyped', 'taken', 'rotated')
             AND NOT CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                     ELSE has_table_privilege(c.oid, 'SELECT') END
       )
       AND NOT EXISTS (
           SELECT FROM pg_proc AS p
           WHERE p.pronamespace = n.oid AND p.proname IN ('read', 'what_was_taken', 'last_entries', 'look', 'note_retyped', 'retyped_after')
             AND NOT has_function_privilege(p.oid, 'EXECUTE')
       ),
       pg_has_role(n.nspowner, 'USAGE') OR NOT EXISTS (
           SELECT FROM pg_class AS c
           WHERE c.relnamespace = n.oid
             AND NOT CASE
                 WHEN c.relname = 'meta' THEN has_column_privilege(c.oid, 'epoch', 'UPDATE')
                 WHEN c.relname = 'journal' THEN has_table_privilege(c.oid, 'DELETE')
                 WHEN c.relname ~ '^journal_[0-7]$' THEN has_table_privilege(c.oid, 'TRUNCATE')
                 WHEN c.relname IN ('slot', 'lost_xid', 'lost_at', 'lost_id', 'awake_until') THEN has_sequence_privilege(c.oid, 'UPDATE')
                 ELSE true
             END
       )
       AND NOT EXISTS (
           SELECT FROM pg_proc AS p
           WHERE p.pronamespace = n.oid
             AND p.proname IN ('retain', 'empty_partition', 'note_rotation', 'note_taken', 'begin_anew_if_restored', 'refresh')
             AND NOT has_function_privilege(p.oid, 'EXECUTE')
       ),
       n.nspowner::regrole::text
FROM pg_namespace AS n WHERE n.nspname = 'changefeed';

-- locks --
-- Who locks relations of the schema changefeed against reading, or waits to do so, behind which readers wait; what ends it, the
-- relations, whether one is locked, for which sessions it waits, and how old the transaction is.
SELECT CASE WHEN l.pid IS NULL THEN format('the prepared transaction %L', x.gid) ELSE format('the session with pid %s', l.pid) END,
       CASE WHEN l.pid IS NULL THEN format('ROLLBACK PREPARED %L;', x.gid) ELSE format('SELECT pg_terminate_backend(%s);', l.pid) END,
       string_agg(DISTINCT c.relname, ', '), bool_or(l.granted), pg_blocking_pids(l.pid),
       extract(epoch FROM clock_timestamp() - min(coalesce(a.xact_start, x.prepared)))::float8
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation AND c.relnamespace = to_regnamespace('changefeed') AND c.relkind IN ('r', 'p', 'S')
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts AS x ON l.pid IS NULL AND l.virtualtransaction = '-1/' || x.transaction
WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
GROUP BY l.pid, l.virtualtransaction, x.gid
ORDER BY l.pid;

-- rows --
-- Whether this role may call what reads rows; each watched table, and what to grant so that its rows can be read.
SELECT f.may_call, c.oid::int8, array_to_string(ARRAY[
    CASE WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user) END,
    CASE WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN format('GRANT SELECT ON %I.%I TO %I;', n.nspname, c.relname, current_user) END
], ' ')
FROM changefeed.watched() AS w JOIN pg_class AS c ON c.oid = w.target JOIN pg_namespace AS n ON n.oid = c.relnamespace, LATERAL (
    SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace('changefeed') AND p.proname IN ('cursor', 'rows_source', 'hash_of_row', 'json_array', 'next_rows', 'refuse_column')
) AS f (may_call)
ORDER BY n.nspname, c.relname;

-- rows source --
-- Fails with the reason if the rows of a table cannot be read although this role has SELECT.
SELECT FROM changefeed.rows_source(%(target)s::oid, %(trusted)s::text[]);

-- who may write --
-- Roles, other than the owner and superusers, that could write arbitrary entries into the journal; and the statement that ends it.
SELECT DISTINCT quote_ident(r.rolname), i.fix || quote_ident(r.rolname) || ';'
FROM (
    SELECT a.grantee, format('REVOKE CREATE ON SCHEMA %I FROM ', n.nspname)
    FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
    WHERE n.nspname IN ('changefeed', 'changefeed_secret') AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
    UNION ALL
    SELECT a.grantee, format('REVOKE EXECUTE ON FUNCTION %s FROM ', p.oid::regprocedure)
    FROM pg_proc AS p, aclexplode(p.proacl) AS a
    WHERE p.pronamespace = to_regnamespace('changefeed') AND p.prorettype = 'trigger'::regtype AND p.prosecdef
      AND a.grantee <> p.proowner
    UNION ALL
    SELECT a.grantee, format('REVOKE INSERT, UPDATE, TRIGGER ON %s FROM ', c.oid::regclass)
    FROM pg_class AS c, aclexplode(c.relacl) AS a
    WHERE c.relnamespace = to_regnamespace('changefeed') AND c.relkind IN ('r', 'p')
      AND a.privilege_type IN ('INSERT', 'UPDATE', 'TRIGGER') AND a.grantee <> c.relowner
) AS i (grantee, fix) JOIN pg_roles AS r ON r.oid = i.grantee AND NOT r.rolsuper
ORDER BY 1, 2;

-- borrowed event triggers --
-- Event triggers whose function a role without superuser rights owns, and so can replace: it runs as any role that executes DDL.
SELECT quote_ident(e.evtname), quote_ident(r.rolname)
FROM pg_event_trigger AS e JOIN pg_proc AS p ON p.oid = e.evtfoid JOIN pg_roles AS r ON r.oid = p.proowner
WHERE p.pronamespace = to_regnamespace('changefeed') AND NOT r.rolsuper;

-- version --
-- The schema's version, and that of the oldest server that can read it.
SELECT m.version, coalesce((to_jsonb(m) ->> 'readable_from')::integer, m.version) FROM changefeed.meta AS m;

-- backend --
SELECT pg_backend_pid();

-- triggers --
-- Each watched table, and whether its triggers are intact.
SELECT format('%I.%I', schema_name, table_name), is_complete FROM changefeed.status();

-- disabled triggers --
-- Each with its table, and with the watched table, which is a partition's root.
SELECT format('%I.%I', m.nspname, member.relname), quote_ident(t.tgname), format('%I.%I', n.nspname, c.relname)
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_class AS member ON member.oid = t.tgrelid JOIN pg_namespace AS m ON m.oid = member.relnamespace
JOIN pg_class AS c ON c.oid = coalesce(pg_partition_root(t.tgrelid), t.tgrelid)
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname <> 'request' AND t.tgenabled NOT IN ('O', 'A')
ORDER BY 1, 2;

-- named tables --
-- The tables that a pattern of --watch names, by a schema and a table or the whole schema, and whether each is watched.
SELECT n.nspname, c.relname, EXISTS (
    SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('changefeed') AND p.proname <> 'request'
)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname = %(schema)s::text
  AND c.relname = coalesce(%(table)s::text, c.relname);

-- tables with row security --
-- Watched tables that have row-level security, themselves or on a partition: the feed does not apply their policies. Without a
-- cast to regclass, which fails in schemas that this role may not use.
SELECT DISTINCT format('%I.%I', s.schema_name, s.table_name)
FROM changefeed.status() AS s
JOIN pg_namespace AS n ON n.nspname = s.schema_name
JOIN pg_class AS root ON root.relnamespace = n.oid AND root.relname = s.table_name
WHERE EXISTS (
    SELECT FROM pg_class AS c
    WHERE c.relrowsecurity AND (c.oid = root.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(root.oid)))
)
ORDER BY 1;

-- tables with deferrable keys --
-- Watched tables with a primary key that two rows may have until they commit.
SELECT format('%I.%I', s.schema_name, s.table_name)
FROM changefeed.status() AS s
JOIN pg_namespace AS n ON n.nspname = s.schema_name
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = s.table_name
JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate
ORDER BY 1;

-- tables that lose rows untold --
-- Watched tables, or their partitions, that are unlogged, or that a subscription writes without firing their triggers.
SELECT format('%I.%I', n.nspname, c.relname), c.relpersistence = 'u', (
    SELECT string_agg(format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER %I;', n.nspname, c.relname, t.tgname), ' ' ORDER BY t.tgname)
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = c.oid AND p.pronamespace = 'changefeed'::regnamespace AND t.tgenabled <> 'A'
)
FROM changefeed.status() AS s
JOIN pg_namespace AS m ON m.nspname = s.schema_name
JOIN pg_class AS root ON root.relnamespace = m.oid AND root.relname = s.table_name,
    LATERAL changefeed.members(root.oid) AS member
JOIN pg_class AS c ON c.oid = member JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relpersistence = 'u'
   OR EXISTS (SELECT FROM pg_subscription_rel AS r WHERE r.srrelid = c.oid)
   AND EXISTS (
       SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
       WHERE t.tgrelid = c.oid AND p.pronamespace = 'changefeed'::regnamespace AND t.tgenabled <> 'A'
   )
ORDER BY 1;

-- publications --
-- Those that publish the journal.
SELECT DISTINCT quote_ident(pubname::text) FROM pg_publication_tables
WHERE schemaname = 'changefeed' ORDER BY 1;

-- settings --
-- Settings of this role, this database or all roles that would end or refuse a statement, an idle session or a write.
SELECT c.entry, coalesce('ROLE ' || quote_ident(r.rolname), 'DATABASE ' || quote_ident(d.datname), 'ROLE ALL')
FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole LEFT JOIN pg_database AS d ON d.oid = s.setdatabase,
    LATERAL unnest(s.setconfig) AS c (entry)
WHERE coalesce(d.datname, current_database()) = current_database() AND coalesce(r.rolname, current_user) = current_user
  AND split_part(c.entry, '=', 1) IN (
      'statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout',
      'default_transaction_isolation', 'default_transaction_read_only', 'event_triggers'
  )
ORDER BY 1, 2;

-- connection limits --
-- How many connections this role may have, what says so, and how to allow as many as are needed. Superusers have no such limit
-- but max_connections.
SELECT l.allowed, l.what, l.fix
FROM pg_roles AS r JOIN pg_database AS d ON d.datname = current_database(),
    LATERAL (
        VALUES (
            current_setting('max_connections')::integer - CASE
                WHEN r.rolsuper THEN 0
                ELSE current_setting('superuser_reserved_connections')::integer
                    + coalesce(current_setting('reserved_connections', true)::integer, 0)
            END,
            'max_connections',
            format('ALTER SYSTEM SET max_connections = %%s;', current_setting('max_connections')::integer + %(needed)s::integer)
        ), (
            CASE WHEN NOT r.rolsuper AND r.rolconnlimit >= 0 THEN r.rolconnlimit END,
            'the role ' || quote_ident(r.rolname),
            format('ALTER ROLE %%I CONNECTION LIMIT %%s;', r.rolname, %(needed)s::integer)
        ), (
            CASE WHEN NOT r.rolsuper AND d.datconnlimit >= 0 THEN d.datconnlimit END,
            'the database ' || quote_ident(d.datname),
            format('ALTER DATABASE %%I CONNECTION LIMIT %%s;', d.datname, d.datconnlimit + %(needed)s::integer)
        )
    ) AS l (allowed, what, fix)
WHERE r.rolname = session_user AND l.allowed IS NOT NULL;

-- notification queue --
SELECT pg_notification_queue_usage();

-- oldest transaction --
-- The sessions with an open transaction, oldest first: its age in seconds, the session, and what it is.
SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8, pid, coalesce(usename::text, backend_type), state
FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 1;

-- oldest prepared transaction --
SELECT extract(epoch FROM clock_timestamp() - prepared)::float8, quote_literal(gid) FROM pg_prepared_xacts
WHERE database = current_database() ORDER BY prepared LIMIT 1;

-- sees all sessions --
-- Whether this role can see the transactions of others.
SELECT pg_has_role('pg_read_all_stats', 'USAGE');

-- replica roles --
-- The roles and databases for which session_replication_role is set so that triggers do not fire.
SELECT coalesce(quote_ident(r.rolname), 'ALL'), quote_ident(d.datname)
FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
WHERE 'session_replication_role=replica' = ANY (s.setconfig) AND coalesce(d.datname, current_database()) = current_database();

-- replication role --
SELECT current_setting('session_replication_role');

-- journal --
SELECT bytes, extract(epoch FROM clock_timestamp() - oldest)::float8, losses FROM changefeed.journal_status();

-- lease --
-- Whether a server may take it, and for how many milliseconds it still holds; see sql/journal.sql.
SELECT coalesce(nullif(current_setting('changefeed.lease', true), ''), 'on') = 'on', coalesce(
    pg_sequence_last_value(to_regclass('changefeed.awake_until')) - date_part('epoch', clock_timestamp()) * 1000, -1
);
