-- What records a table, member by member, and notes of each time that its triggers were created or changed.
--
-- A member is a table that is watched, or one of its partitions. Its state is what the catalog says about our triggers there.
-- If two states are equal, nothing was missed between them: PostgreSQL writes a trigger's row when it is switched off, on or
-- renamed, that of pg_inherits when a partition comes, those of a row type and its array type when their table gets another name,
-- and those of the columns when the table becomes a partition, or inherits.

-- Whether a row of the catalog, or one of several, was written again between `before` and `after`. Each row is named by its
-- xmin@ctid: the xmin differs between transactions, the ctid also within one. Both stay the same if an attempt to write the row is
-- rolled back, in a crash, and on a standby. VACUUM FULL changes the ctid, in another file.
CREATE OR REPLACE FUNCTION changefeed.is_rewritten(before text, after text, is_same_file boolean)
RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT before <> after AND (
        is_same_file IS TRUE OR regexp_replace(before, '@[^ ]+', '', 'g') <> regexp_replace(after, '@[^ ]+', '', 'g')
    )
$function$;

-- Which journal this is. (It stays the same if the cluster's files are restored.)
CREATE OR REPLACE FUNCTION changefeed.this_journal()
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT concat_ws(' ', m.epoch, c.system_identifier, 'changefeed.journal'::regclass::oid)
    FROM changefeed.meta AS m, pg_control_system() AS c
$function$;

-- Each time that we made or changed triggers: the state of each member before and after. Triggers are changed under a lock, so
-- nothing is missed between the two. A look follows these from one to the next, and deletes them. Rows are only added here, so
-- that no look waits for a transaction that makes triggers.
CREATE SEQUENCE IF NOT EXISTS changefeed.noted_id;  -- a server looks whenever its last_value has changed
CREATE TABLE IF NOT EXISTS changefeed.noted (
    id bigint NOT NULL,                -- the same for all members whose triggers were made at once
    root oid NOT NULL,
    member oid NOT NULL,
    journal text NOT NULL DEFAULT changefeed.this_journal(),
    schema_name text NOT NULL,         -- the root's name at that time
    table_name text NOT NULL,
    before jsonb,                      -- null if nothing recorded it as this root's
    after jsonb NOT NULL,
    had_rows boolean NOT NULL,
    is_written boolean NOT NULL,       -- whether it ever had a row that others could see
    snapshot pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    PRIMARY KEY (id, member)
);

-- The state of each member of these roots.
-- - Rows of the catalog are named by their xmin@ctid; our triggers by their xmin, because each attempt to create them is a
--   subtransaction of its own.
-- - A member is complete if its triggers are all enabled, and record INSERT (4), DELETE (8), UPDATE (16) and TRUNCATE (32); if
--   there are partitions, also the rows that TRUNCATE removes from them (64, 128). For a root with a foreign partition,
--   PostgreSQL fires the triggers of its partitions.
-- - A partition that was created as one, and not attached, entered pg_inherits by the command that created it: 3 steps after its
--   columns. The rows of an attached partition are in its own partitions, so these count as attached, and enter, with it.
-- - MATERIALIZED, so that each table is looked up once: the planner expects a small catalog until it is analyzed.
CREATE OR REPLACE FUNCTION changefeed.states(roots oid[])
RETURNS TABLE (root oid, member oid, state jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    WITH RECURSIVE members (root, member, entered, is_attached) AS (
        SELECT r, r, '', false FROM unnest(roots) AS r
        UNION ALL
        SELECT m.root, c.oid, concat_ws(' ', nullif(m.entered, ''), concat(i.xmin, '@', i.ctid)),
               m.is_attached OR i.xmin <> a.xmin OR i.cmin::text::bigint - a.cmin::text::bigint > 3
        FROM members AS m
        JOIN pg_inherits AS i ON i.inhparent = m.member
        JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p')
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = -6
    ), ours AS MATERIALIZED (
        SELECT t.tgrelid AS member,
               bit_or(CASE
                   WHEN t.tgtype::int & 2 = 0 THEN t.tgtype::int & 60
                   WHEN t.tgfoid = 'changefeed.read_truncated()'::regprocedure THEN 64
                   WHEN t.tgfoid = 'changefeed.record_truncated()'::regprocedure THEN 128
                   ELSE 0
               END) FILTER (WHERE t.tgenabled IN ('O', 'A')) AS recorded,
               bool_and(t.tgenabled IN ('O', 'A')) AS is_enabled,
               sum(hash_record_extended(ROW(t.oid), 0)) AS triggers,
               sum(hash_record_extended(ROW(t.oid, t.tgname, t.tgtype, t.tgenabled, t.tgfoid, t.tgargs), 0)) AS definition,
               sum(hash_record_extended(ROW(t.oid, t.xmin), 0)) AS written,
               bool_or(t.tgtype::int & 3 = 1) AS is_by_row,
               bool_or(position('"dynamic"'::bytea IN t.tgargs) > 0) AS is_dynamic,
               bool_or(p.is_recorder) AS is_recorded,
               bool_and(position('"root": true'::bytea IN t.tgargs) > 0) FILTER (WHERE p.is_recorder) AS is_of_root
        FROM pg_trigger AS t
        JOIN (
            SELECT p.oid, p.oid = ANY ((SELECT changefeed.recorders())::oid[]) AS is_recorder FROM pg_proc AS p
            WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname <> 'request' OFFSET 0
        ) AS p ON p.oid = t.tgfoid
        WHERE t.tgrelid IN (SELECT m.member FROM members AS m)
        GROUP BY t.tgrelid
    ), facts AS MATERIALIZED (
        SELECT c.oid AS root,
               -- GRANT writes the first of these two, a new type that would have its name the second.
               concat(y.xmin, '@', y.ctid) AS type_written, concat(e.xmin, '@', e.ctid) AS array_type_written,
               hash_record_extended(ROW(y.typname, y.typnamespace), 0)::text AS name, y.typowner::bigint AS owner,
               -- By number: what each is, and the row that says so.
               coalesce((
                   SELECT jsonb_object_agg(a.attnum, jsonb_build_array(
                       hashtextextended(concat_ws(' ', a::text, d.oid), 0)::text, concat(a.xmin, '@', a.ctid)
                   ))
                   FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               ), '{}') AS columns,
               EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid) AS has_parents,
               EXISTS (
                   SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped
               ) AS has_virtual,
               c.relkind = 'r' AND c.relhassubclass AS has_children  -- or had some, until ANALYZE
        FROM pg_class AS c JOIN pg_type AS y ON y.oid = c.reltype JOIN pg_type AS e ON e.oid = y.typarray
        WHERE c.oid = ANY (roots)
    ), foreigners AS MATERIALIZED (
        SELECT DISTINCT m.root
        FROM members AS m JOIN pg_inherits AS i ON i.inhparent = m.member
        JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relkind = 'f' AND c.relispartition
    )
    SELECT m.root, m.member, jsonb_build_object(
        'entered', m.entered, 'is_attached', m.is_attached,
        'files', concat_ws(
            ' ', pg_relation_filenode('pg_inherits'), pg_relation_filenode('pg_type'), pg_relation_filenode('pg_attribute')
        ),
        'triggers', o.triggers::text, 'definition', o.definition::text, 'written', o.written::text,
        'is_recorded', coalesce(o.is_recorded AND (o.is_of_root OR NOT c.relispartition), false),
        'is_complete', coalesce(o.is_enabled, true) AND w.wanted & coalesce(o.recorded, 0) = w.wanted
            AND (coalesce(o.is_of_root, true) OR NOT c.relispartition),
        -- Triggers that do not look up the columns find virtual ones as null in the rows.
        'is_null', r.has_virtual AND NOT coalesce(o.is_dynamic, false),
        -- A crash empties unlogged tables, and resets the statistics; a promotion empties them, and begins another timeline.
        'is_unlogged', c.relpersistence = 'u',
        'running_since', (
            SELECT concat_ws(
                ' ', extract(epoch FROM b.stats_reset),
                CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
            )
            FROM pg_stat_bgwriter AS b
        )
    ) || CASE WHEN m.member <> m.root THEN '{}' ELSE jsonb_build_object(
        'name', r.name, 'owner', r.owner, 'type_written', r.type_written, 'array_type_written', r.array_type_written,
        'columns', r.columns, 'is_by_row', coalesce(o.is_by_row, false),
        -- A statement on the parent fires the parent's statement triggers, and only the row triggers of the child.
        'misses_parents', r.has_parents AND NOT coalesce(o.is_by_row, false),
        -- Statement triggers report the rows of children too, as the table's own.
        'tells_children', r.has_children AND NOT coalesce(o.is_by_row, false)
    ) END
    FROM members AS m
    JOIN pg_class AS c ON c.oid = m.member
    JOIN facts AS r ON r.root = m.root
    LEFT JOIN ours AS o ON o.member = m.member
    LEFT JOIN foreigners AS f ON f.root = m.root
    CROSS JOIN LATERAL (SELECT CASE
        WHEN c.relkind = 'p' AND c.relispartition AND f.root IS NOT NULL THEN 64 + 128
        WHEN c.relkind = 'p' AND f.root IS NOT NULL THEN 32 + 64 + 128
        WHEN c.relkind = 'p' OR c.relispartition THEN 60 + 64 + 128
        ELSE 60
    END) AS w (wanted)
$function$;

-- The tables that another session has locked, or waits to lock: even reading a file's size would wait there.
CREATE OR REPLACE FUNCTION changefeed.locked(members oid[])
RETURNS oid[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT coalesce(array_agg(DISTINCT l.relation), '{}') FROM pg_locks AS l
    WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AND l.relation = ANY (members)
$function$;

-- The tables that never had a row that others could see: their file has no page, is the first one, and was reached by neither
-- VACUUM nor ANALYZE. Null if that cannot be known now, because one of them is locked.
CREATE OR REPLACE FUNCTION changefeed.never_written(members oid[])
RETURNS oid[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET lock_timeout = '10ms' AS $function$
BEGIN
    IF members = '{}' THEN
        RETURN members;
    ELSIF changefeed.locked(members) <> '{}' THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.oid = ANY (members) AND (
            c.relkind = 'p' OR c.reltuples = -1 AND c.relfilenode = c.oid AND pg_relation_size(c.oid::regclass) = 0
        )
    );
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END
$function$;

-- Whether this transaction has written an entry of the table.
CREATE OR REPLACE FUNCTION changefeed.has_entries_here(of_schema text, of_table text)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $function$
    SELECT EXISTS (
        SELECT FROM changefeed.journal AS j
        WHERE j.xid = pg_current_xact_id() AND j.schema_name = of_schema AND j.table_name = of_table
    )
$function$;

-- Whether the table has children with rows, which the trigger of a statement on it may have reported as its own.
CREATE OR REPLACE FUNCTION changefeed.may_have_told_children(target oid)
RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    WITH RECURSIVE descendants (member, came) AS (
        SELECT i.inhrelid, i.xmin FROM pg_inherits AS i WHERE i.inhparent = target
        UNION
        SELECT i.inhrelid, d.came FROM descendants AS d JOIN pg_inherits AS i ON i.inhparent = d.member
    )
    SELECT EXISTS (
        SELECT FROM descendants AS d JOIN pg_class AS k ON k.oid = d.member AND k.relkind <> 'f'
        WHERE pg_relation_size(d.member::regclass) > 0 AND (
            NOT changefeed.is_of_this_transaction(d.came)
            OR (
                SELECT changefeed.has_entries_here(n.nspname, c.relname)
                FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = target
            )
        )
    )
$function$;

-- Whether a virtual column may have been reported as null: it is older than this transaction, or this transaction has written to
-- the table.
CREATE OR REPLACE FUNCTION changefeed.may_have_told_null(target oid)
RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    SELECT changefeed.has_entries_here(n.nspname, c.relname) OR EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped AND NOT changefeed.is_of_this_transaction(a.xmin)
    )
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = target
$function$;

-- Notes that we changed triggers of `target`; `before` has the previous states of the members whose triggers they are. What a trigger could have reported
-- wrongly until now, but has not, is not noted.
CREATE OR REPLACE FUNCTION changefeed.note(target oid, members oid[], before jsonb[])
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    harmless jsonb := '{}';
    callers text;
BEGIN
    GET DIAGNOSTICS callers = PG_CONTEXT;
    -- Where the event trigger follows right after the command that made it a child, no statement was in between.
    IF before[array_position(members, target)] -> 'misses_parents' = 'true' AND position('changefeed.refresh_after_ddl()' IN callers) > 0
       AND NOT EXISTS (
           SELECT FROM pg_inherits AS i WHERE i.inhrelid = target AND NOT changefeed.is_of_this_transaction(i.xmin)
       ) THEN
        harmless := harmless || '{"misses_parents": false}';
    END IF;
    IF before[array_position(members, target)] -> 'tells_children' = 'true' AND NOT changefeed.may_have_told_children(target) THEN
        harmless := harmless || '{"tells_children": false}';
    END IF;
    IF before[array_position(members, target)] -> 'is_null' = 'true' AND NOT changefeed.may_have_told_null(target) THEN
        harmless := harmless || '{"is_null": false}';
    END IF;
    INSERT INTO changefeed.noted (id, root, member, schema_name, table_name, before, after, had_rows, is_written)
    SELECT x.id, target, s.member, n.nspname, c.relname,
           CASE WHEN (b.state ->> 'is_recorded')::boolean THEN
               b.state || CASE WHEN s.member = target THEN harmless ELSE harmless - 'tells_children' - 'misses_parents' END
           END,
           s.state, f.size > 0, f.size > 0 OR m.relkind <> 'p' AND (m.reltuples <> -1 OR m.relfilenode <> m.oid)
    FROM (SELECT nextval('changefeed.noted_id') AS id) AS x
    CROSS JOIN changefeed.states(ARRAY[target]) AS s
    CROSS JOIN LATERAL (SELECT * FROM pg_class AS m WHERE m.oid = s.member OFFSET 0) AS m
    JOIN pg_class AS c ON c.oid = target
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN unnest(members, before) AS b (member, state) ON b.member = s.member
    CROSS JOIN LATERAL (SELECT CASE WHEN m.relkind = 'p' THEN 0 ELSE pg_relation_size(m.oid::regclass) END AS size) AS f
    WHERE b.state IS DISTINCT FROM s.state;
END
$function$;
