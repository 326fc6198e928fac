-- The triggers that a watched table should have, and the statements that create, rename and drop triggers accordingly.
--
-- Triggers are compared by their columns in pg_trigger, never by their definitions' texts, which depend on settings and locales.

-- The trigger changefeed_request, with this function, requests that its table be watched, by a role with the right TRIGGER. Its
-- argument is the options. It never fires. It replaces no trigger that records, so nothing is missed while it is made; and it stays,
-- since only the table's owner could drop it.
CREATE OR REPLACE FUNCTION changefeed.request() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN NULL;
END
$function$;

-- The triggers that tables and their partitions should have, each with its columns of pg_trigger. A table that inherits, or is
-- inherited from, gets triggers FOR EACH ROW: a statement trigger would not show which of the tables a row is in.
DROP FUNCTION IF EXISTS changefeed.wanted_triggers(regclass, jsonb);  -- version 4's
CREATE OR REPLACE FUNCTION changefeed.wanted_triggers(roots oid[], options jsonb[])
RETURNS TABLE (
    root oid, member oid, level integer, name name, type integer, function oid, argument text, old_table name, new_table name
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH asked AS MATERIALIZED (
        SELECT o.root, o.options, c.relkind = 'p' AND changefeed.has_foreign_partition(o.root) AS has_foreign_partition
        FROM unnest(roots, options) AS o (root, options) JOIN pg_class AS c ON c.oid = o.root WHERE o.options IS NOT NULL
    ), facts AS (
        SELECT
            m.*,
            o.options,
            c.relispartition AS is_partition,
            c.relkind = 'p' AS is_partitioned,
            CASE
                -- PostgreSQL has no transition tables for foreign partitions, and fails a write that reaches one.
                WHEN c.relispartition OR c.relkind = 'p' THEN o.has_foreign_partition
                ELSE EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid)
                    OR EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid)
            END AS is_rowwise,
            coalesce((
                SELECT true FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped LIMIT 1
            ), false) AS has_virtual,
            c.relispartition AND (
                SELECT string_agg(quote_ident(a.attname), ',' ORDER BY a.attnum) FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            ) <> (
                SELECT string_agg(quote_ident(a.attname), ',' ORDER BY a.attnum) FROM pg_attribute AS a
                WHERE a.attrelid = m.root AND a.attnum > 0 AND NOT a.attisdropped
            ) AS is_in_another_order,
            (
                -- A partition has its root's columns under the same names. 0 is no column's number.
                SELECT jsonb_build_object('numbers', jsonb_object_agg(h.name, CASE
                    WHEN m.member = m.root THEN n.number
                    WHEN n.number = r.number THEN coalesce((
                        SELECT a.attnum FROM pg_attribute AS a
                        WHERE a.attrelid = m.member AND a.attname = h.name AND a.attnum > 0 AND NOT a.attisdropped
                    ), 0)
                    ELSE 0
                END)) || CASE
                    -- A restore changes the table's oid, and the numbers to ones that may be other columns' by chance.
                    WHEN m.member = m.root AND bool_or(n.number IS DISTINCT FROM r.number)
                        THEN jsonb_build_object('gone_in', m.root::bigint)
                    ELSE '{}'
                END
                FROM jsonb_array_elements_text(
                    coalesce(o.options -> 'omit', '[]') || coalesce(o.options -> 'hash', '[]')
                ) AS h (name) CROSS JOIN LATERAL (
                    SELECT (
                        SELECT a.attnum FROM pg_attribute AS a
                        WHERE a.attrelid = m.root AND a.attname = h.name AND a.attnum > 0 AND NOT a.attisdropped
                    )::integer
                ) AS r (number) CROSS JOIN LATERAL (
                    SELECT coalesce(CASE
                        WHEN (o.options ->> 'gone_in')::oid <> m.root THEN 0
                        WHEN o.options ? 'numbers' THEN (o.options -> 'numbers' ->> h.name)::integer
                        ELSE r.number  -- an earlier version's trigger has names only
                    END, 0)
                ) AS n (number)
                WHERE o.options ?| '{omit,hash}'
                HAVING count(*) > 0
            ) AS numbers
        -- OFFSET 0 and, above, LIMIT 1: so that each table is looked up by an index. The planner expects 1,000 members, for which it
        -- would read pg_class and pg_attribute as a whole.
        FROM changefeed.members(roots) AS m JOIN asked AS o ON o.root = m.root
        CROSS JOIN LATERAL (SELECT * FROM pg_class AS c WHERE c.oid = m.member OFFSET 0) AS c
    ), arguments AS (
        SELECT *,
            (options - '{strict,numbers,gone_in}'::text[]) || coalesce(numbers, '{}')
            || CASE WHEN is_partition THEN '{"root": true}' ELSE '{}' END::jsonb
            || CASE WHEN has_virtual OR is_rowwise OR is_in_another_order OR options ?| '{omit,hash}' THEN '{"dynamic": true}' ELSE '{}' END::jsonb
            AS argument,
            CASE
                WHEN options ? 'strict' THEN 'changefeed.record_strict()'::regprocedure
                ELSE 'changefeed.record()'::regprocedure
            END AS recorder
        FROM facts
    )
    SELECT
        a.root, a.member, a.level,
        CASE WHEN w.is_of_rows AND a.is_rowwise THEN '!' || substr(w.name, 2) ELSE w.name END,
        w.type + CASE WHEN w.is_of_rows AND a.is_rowwise THEN 1 ELSE 0 END,  -- 1: for each row
        coalesce(w.function, a.recorder),
        CASE WHEN a.argument <> '{}' AND w.name <> 'changefeed_request' THEN a.argument::text END,
        CASE WHEN NOT a.is_rowwise THEN w.old_table END,
        CASE WHEN NOT a.is_rowwise THEN w.new_table END
    FROM arguments AS a,
    -- Triggers fire in the order of their names. ~ sorts after others: so what a statement's other triggers wrote is recorded
    -- before it, and is not taken for writes of the next statement's. FOR EACH ROW, ! sorts before others, which may write the
    -- row again.
    -- The type is a sum: 2 BEFORE, 4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE.
    (VALUES
        ('~changefeed_insert', 4, true, NULL::regprocedure, NULL, 'new_rows'),
        ('~changefeed_update', 16, true, NULL, 'old_rows', 'new_rows'),
        ('~changefeed_delete', 8, true, NULL, 'old_rows', NULL),
        ('changefeed_never', 1 + 2 + 4, false, 'changefeed.never()', NULL, NULL),
        ('changefeed_request', 2 + 32, false, 'changefeed.request()', NULL, NULL),
        -- Fires first, so that writes of other triggers are recorded after the TRUNCATE: states of rows would not show that.
        ('!changefeed_truncate', 32, false, NULL, NULL, NULL),
        ('changefeed_truncating', 2 + 32, false, 'changefeed.read_truncated()', NULL, NULL),
        ('changefeed_truncating_record', 2 + 32, false, 'changefeed.record_truncated()', NULL, NULL),
        ('changefeed_truncated', 32, false, 'changefeed.record_truncated()', NULL, NULL)
    ) AS w (name, type, is_of_rows, function, old_table, new_table)
    WHERE CASE w.name
        WHEN '!changefeed_truncate' THEN NOT a.is_partition
        WHEN 'changefeed_truncating' THEN a.is_partition OR a.is_partitioned
        WHEN 'changefeed_truncating_record' THEN a.is_partition OR a.is_partitioned
        WHEN 'changefeed_truncated' THEN a.is_partition OR a.is_partitioned
        WHEN 'changefeed_never' THEN NOT a.is_partitioned AND a.is_partition AND NOT a.is_rowwise
            AND current_setting('server_version_num')::integer >= 150000  -- since which there is MERGE
        -- Where a role made it. Its argument is gone once the request is granted.
        WHEN 'changefeed_request' THEN a.member = a.root AND EXISTS (
            SELECT FROM pg_trigger AS t
            WHERE t.tgrelid = a.member AND t.tgname = 'changefeed_request' AND t.tgfoid = 'changefeed.request()'::regprocedure
        )
        ELSE NOT (a.is_partitioned AND a.is_rowwise)
    END
$function$;

-- The statements that bring the triggers of tables and partitions into order, or drop them if a table's options are null. The
-- statements that lock the tables come first, in the order in which writers lock them, the root before its partitions: so if a lock
-- is not available, no writer has waited for triggers made in vain.
DO $without_member$
BEGIN
    -- The first installations of version 5 had it without `member`, and the columns that a function returns cannot be changed.
    IF NOT EXISTS (
        SELECT FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace AND proname = 'repairs' AND 'member' = ANY (proargnames)
    ) THEN
        DROP FUNCTION IF EXISTS changefeed.repairs(oid[], jsonb[]);
    END IF;
END
$without_member$;
CREATE OR REPLACE FUNCTION changefeed.repairs(roots oid[], options jsonb[])
RETURNS TABLE (root oid, member oid, statement text) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH ours AS (
        SELECT m.root, m.member, m.level, t.* FROM changefeed.members(roots) AS m JOIN pg_trigger AS t ON t.tgrelid = m.member
        WHERE t.tgfoid IN (SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'changefeed'::regnamespace)
          AND (t.tgfoid <> 'changefeed.request()'::regprocedure OR t.tgname = 'changefeed_request' AND m.member = m.root)
          AND t.tgparentid = 0 AND NOT t.tgisinternal
    ), wanted AS (
        SELECT w.*, coalesce(convert_to(w.argument, getdatabaseencoding()) || decode('00', 'hex'), '') AS tgargs
        FROM changefeed.wanted_triggers(roots, options) AS w
    ), renamed AS (
        SELECT DISTINCT ON (w.member, w.name) w.member, w.name, t.tgname
        FROM wanted AS w JOIN ours AS t ON t.member = w.member AND ltrim(t.tgname, '!~') = ltrim(w.name, '!~')
        WHERE NOT EXISTS (SELECT FROM ours AS o WHERE o.member = w.member AND o.tgname = w.name)
          AND t.tgfoid = ANY ((SELECT changefeed.recorders())::oid[]) AND t.tgconstraint = 0
    )
    SELECT coalesce(w.root, t.root), coalesce(w.member, t.member), CASE
        -- A renamed trigger keeps its oid, which proves to changefeed.look() that it has recorded all the time.
        WHEN w.name IS NULL AND n.name IS NOT NULL
            THEN format('ALTER TRIGGER %I ON %s RENAME TO %I', t.tgname, t.member::regclass, n.name)
        WHEN w.name IS NULL THEN format('DROP TRIGGER %I ON %s', t.tgname, t.member::regclass)
        ELSE format(
            'CREATE OR REPLACE TRIGGER %I %s %s ON %s %s FOR EACH %s EXECUTE FUNCTION %s(%s)',
            w.name,
            CASE WHEN w.type & 2 > 0 THEN 'BEFORE' ELSE 'AFTER' END,
            concat_ws(
                ' OR ',
                CASE WHEN w.type & 4 > 0 THEN 'INSERT' END, CASE WHEN w.type & 8 > 0 THEN 'DELETE' END,
                CASE WHEN w.type & 16 > 0 THEN 'UPDATE' END, CASE WHEN w.type & 32 > 0 THEN 'TRUNCATE' END
            ),
            w.member::regclass,
            CASE WHEN coalesce(w.old_table, w.new_table) IS NOT NULL THEN 'REFERENCING' END
                || coalesce(' OLD TABLE AS ' || quote_ident(w.old_table), '')
                || coalesce(' NEW TABLE AS ' || quote_ident(w.new_table), ''),
            CASE WHEN w.type & 1 > 0 THEN 'ROW' ELSE 'STATEMENT' END
                || CASE WHEN w.name IN ('changefeed_never', 'changefeed_request') THEN ' WHEN (false)' ELSE '' END,
            w.function::regproc,
            CASE WHEN w.argument IS NOT NULL THEN quote_literal(w.argument) END
        )
    END
    FROM wanted AS w FULL JOIN ours AS t ON t.member = w.member AND t.tgname = w.name
    LEFT JOIN renamed AS n ON n.member = t.member AND n.tgname = t.tgname
    WHERE w.name IS NULL OR t.tgname IS NULL
       OR (t.tgtype, t.tgfoid, t.tgargs, t.tgattr::text, t.tgconstraint)
           IS DISTINCT FROM (w.type::smallint, w.function, w.tgargs, '', 0::oid)
       OR t.tgoldtable IS DISTINCT FROM w.old_table OR t.tgnewtable IS DISTINCT FROM w.new_table
       OR (t.tgqual IS NOT NULL) <> (w.name IN ('changefeed_never', 'changefeed_request'))
    ORDER BY
        -- Dropping or renaming a trigger needs a stronger lock than creating one.
        row_number() OVER (PARTITION BY coalesce(w.member, t.member) ORDER BY w.name IS NOT NULL) > 1,
        coalesce(w.level, t.level), coalesce(w.member, t.member), w.name IS NOT NULL
$function$;
