-- watch, unwatch, status: which tables are journaled. Their only memory is the triggers themselves, so there is nothing
-- that could disagree with the catalog.

-- A table and all its partitions. Not by pg_partition_tree, which locks each, and so waits behind a VACUUM FULL.
CREATE OR REPLACE FUNCTION changefeed.members(target oid)
RETURNS SETOF oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE members (member) AS (
        SELECT target
        UNION ALL
        SELECT c.oid FROM members AS m JOIN pg_inherits AS i ON i.inhparent = m.member JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE c.relispartition AND c.relkind IN ('r', 'p')  -- foreign tables can have no such triggers
    )
    SELECT member FROM members
$function$;

-- The triggers that `target` ought to have: name, and what follows it in CREATE TRIGGER, to the letter as
-- pg_get_triggerdef writes it, so that the two can be compared. A table that inherits, or is inherited from, gets
-- triggers for each row: those for a statement would not tell which of the tables a row is in.
CREATE OR REPLACE FUNCTION changefeed.wanted_triggers(target regclass, options jsonb)
RETURNS TABLE (name text, definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH facts AS (
        SELECT
            c.relispartition AS is_partition,
            c.relkind = 'p' AS is_partitioned,
            NOT c.relispartition AND c.relkind <> 'p'
                AND EXISTS (SELECT FROM pg_inherits AS i WHERE target IN (i.inhrelid, i.inhparent)) AS is_inheriting,
            EXISTS (
                SELECT FROM pg_attribute AS a
                WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped
            ) AS has_virtual
        FROM pg_class AS c WHERE c.oid = target
    ), arguments AS (
        SELECT *,
            (options - 'strict')
            || CASE WHEN is_partition THEN '{"root": true}' ELSE '{}' END::jsonb
            || CASE WHEN has_virtual OR is_inheriting OR options ?| '{omit,hash}' THEN '{"dynamic": true}' ELSE '{}' END::jsonb
            AS argument
        FROM facts
    ), quoted AS (
        SELECT *, CASE WHEN argument <> '{}' THEN '''' || replace(argument::text, '''', '''''') || '''' ELSE '' END AS list
        FROM arguments
    ), calls AS (
        SELECT *, format(
            'EXECUTE FUNCTION changefeed.%s(%s)',
            CASE WHEN options ? 'strict' THEN 'record_strict' ELSE 'record' END, list
        ) AS call
        FROM quoted
    )
    -- Triggers fire in the order of their names. For each row: ours before those that write the row again.
    SELECT CASE WHEN is_inheriting THEN '!' ELSE '' END || 'changefeed_' || lower(operation),
        format('AFTER %s ON %s %s%s', operation, target,
        CASE WHEN is_inheriting THEN 'FOR EACH ROW ' ELSE 'REFERENCING ' || tables || ' FOR EACH STATEMENT ' END, call)
    FROM calls, (VALUES
        ('INSERT', 'NEW TABLE AS new_rows'),
        ('UPDATE', 'OLD TABLE AS old_rows NEW TABLE AS new_rows'),
        ('DELETE', 'OLD TABLE AS old_rows')
    ) AS operations (operation, tables)
    UNION ALL
    -- Before others of this kind: what those write comes after the TRUNCATE, which states of rows alone would not tell.
    SELECT '!changefeed_truncate', format('AFTER TRUNCATE ON %s FOR EACH STATEMENT %s', target, call)
    FROM calls WHERE NOT is_partition
    UNION ALL
    SELECT 'changefeed_' || part, format('%s TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION changefeed.%s(%s)',
        moment, target, function, list)
    FROM calls, (VALUES
        ('truncating', 'BEFORE', 'read_truncated'),
        ('truncated', 'AFTER', 'record_truncated')
    ) AS moments (part, moment, function)
    WHERE is_partition OR is_partitioned
$function$;

-- Makes the triggers of a table and its partitions what they ought to be. True where that changed anything. A table
-- that is as it ought to be is not locked. For the lock of one that is in use nobody waits long: writers wait behind.
CREATE OR REPLACE FUNCTION changefeed.apply(target regclass, options jsonb)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $function$
DECLARE
    step record;
    has_changed boolean := false;
BEGIN
    FOR step IN
        WITH members AS (
            SELECT m.member::regclass AS member FROM changefeed.members(target) AS m (member)
        ), wanted AS (
            SELECT member, w.name, w.definition
            FROM members, changefeed.wanted_triggers(member, options) AS w
        ), present AS (
            SELECT m.member, t.tgname::text AS name, pg_get_triggerdef(t.oid) AS definition
            FROM members AS m JOIN pg_trigger AS t ON t.tgrelid = m.member JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE p.pronamespace = 'changefeed'::regnamespace
        )
        SELECT coalesce(w.member, p.member) AS member, coalesce(w.name, p.name) AS name, w.definition
        FROM wanted AS w FULL JOIN present AS p USING (member, name)
        WHERE p.definition IS DISTINCT FROM format('CREATE TRIGGER %s %s', quote_ident(w.name), w.definition)
    LOOP
        IF step.definition IS NULL THEN
            EXECUTE format('DROP TRIGGER %I ON %s', step.name, step.member);
        ELSE
            EXECUTE format('CREATE OR REPLACE TRIGGER %I %s', step.name, step.definition);
        END IF;
        has_changed := true;
    END LOOP;
    RETURN has_changed;
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'the triggers of % could not be changed: it, or a partition of it, was in use for %',
        target, current_setting('lock_timeout')
        USING ERRCODE = 'lock_not_available', HINT = 'Try again when the transactions that hold it are over.';
END
$function$;

DROP FUNCTION IF EXISTS changefeed.watch(regclass, text[], bigint, boolean);  -- version 2's
-- Watches a table: from the next statement on, its changes are journaled. Returns whether anything had to be changed.
--   omit       columns that never leave the table
--   row_limit  of more rows than this in one statement, one change stands for all: its action and their count
--   strict     a write that cannot be journaled fails (see record.sql for what the default costs)
--   hash       columns whose values never leave the table, but hashes of them (see hash.sql)
CREATE OR REPLACE FUNCTION changefeed.watch(
    target regclass, omit text[] DEFAULT '{}', row_limit bigint DEFAULT NULL, strict boolean DEFAULT false,
    hash text[] DEFAULT '{}'
) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    kind "char";
    is_partition boolean;
    persistence "char";
    unknown text;
    doubtful text;
BEGIN
    SELECT c.relkind, c.relispartition, c.relpersistence INTO kind, is_partition, persistence
    FROM pg_class AS c WHERE c.oid = target;
    IF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', target
            USING ERRCODE = 'wrong_object_type', HINT = 'Watch the tables it takes its rows from.';
    ELSIF persistence = 't' THEN
        RAISE EXCEPTION '% is a temporary table', target USING ERRCODE = 'wrong_object_type';
    ELSIF is_partition THEN
        RAISE EXCEPTION '% is a partition', target USING ERRCODE = 'wrong_object_type',
            HINT = format('Watch %s, whose partitions are watched with it.', pg_partition_root(target));
    ELSIF target::text LIKE 'changefeed.%' THEN
        RAISE EXCEPTION '% belongs to the change feed itself', target USING ERRCODE = 'wrong_object_type';
    END IF;
    SELECT name INTO unknown FROM unnest(omit || hash) AS name
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = target AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped
    );
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION '% has no column %', target, quote_ident(unknown) USING ERRCODE = 'undefined_column';
    END IF;
    SELECT name INTO doubtful FROM unnest(hash) AS name WHERE name = ANY (omit);
    IF doubtful IS NOT NULL THEN
        RAISE EXCEPTION 'the column % cannot be both left out and hashed', quote_ident(doubtful)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it in omit or in hash.';
    ELSIF row_limit < 1 THEN
        RAISE EXCEPTION 'row_limit must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN changefeed.apply(target, jsonb_strip_nulls(jsonb_build_object(
        'omit', CASE WHEN cardinality(omit) > 0 THEN to_jsonb(omit) END,
        'hash', CASE WHEN cardinality(hash) > 0 THEN to_jsonb(hash) END,
        'limit', row_limit,
        'strict', CASE WHEN strict THEN true END
    )));
END
$function$;

-- Ends it; what was journaled stays. Returns whether the table had been watched.
CREATE OR REPLACE FUNCTION changefeed.unwatch(target regclass)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $function$
DECLARE
    step record;
    has_changed boolean := false;
BEGIN
    FOR step IN
        SELECT t.tgname, t.tgrelid::regclass AS member FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE p.pronamespace = 'changefeed'::regnamespace
          AND t.tgrelid IN (SELECT changefeed.members(target))
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', step.tgname, step.member);
        has_changed := true;
    END LOOP;
    RETURN has_changed;
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'the triggers of % could not be dropped: it, or a partition of it, was in use for %',
        target, current_setting('lock_timeout')
        USING ERRCODE = 'lock_not_available', HINT = 'Try again when the transactions that hold it are over.';
END
$function$;

-- The options that a trigger of a watched table was made with.
CREATE OR REPLACE FUNCTION changefeed.options(changefeed_trigger pg_trigger)
RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT coalesce(
            -- The argument and a zero byte.
            nullif(convert_from(rtrim(changefeed_trigger.tgargs, '\x00'), getdatabaseencoding()), '')::jsonb, '{}'
        ) - '{root,moves,dynamic}'::text[]
        || CASE WHEN changefeed_trigger.tgfoid = 'changefeed.record_strict()'::regprocedure
            THEN '{"strict": true}' ELSE '{}' END::jsonb
$function$;

-- Version 2's told nothing of `hash`, and what a function returns cannot be changed.
DO $version_2$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace AND proname = 'status' AND 'hash' = ANY (proargnames)
    ) THEN
        DROP FUNCTION IF EXISTS changefeed.status();
    END IF;
END
$version_2$;

-- The watched tables, each with its options; `is_complete` says that its triggers and its partitions' are as they ought
-- to be and enabled.
CREATE OR REPLACE FUNCTION changefeed.status()
RETURNS TABLE (
    schema_name text, table_name text, is_complete boolean, omit text[], row_limit bigint, strict boolean, partitions bigint,
    hash text[]
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH watched AS (
        SELECT c.oid::regclass AS target, n.nspname, c.relname, changefeed.options(t) AS options
        FROM pg_trigger AS t
        JOIN pg_class AS c ON c.oid = t.tgrelid AND NOT c.relispartition
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE t.tgname IN ('changefeed_insert', '!changefeed_insert') AND NOT t.tgisinternal
    )
    SELECT w.nspname, w.relname,
        NOT EXISTS (
            SELECT FROM changefeed.members(w.target) AS m (member),
                changefeed.wanted_triggers(m.member::regclass, w.options) AS wanted
            WHERE NOT EXISTS (
                SELECT FROM pg_trigger AS t
                WHERE t.tgrelid = m.member AND t.tgname = wanted.name AND t.tgenabled <> 'D'
                  AND pg_get_triggerdef(t.oid) = format('CREATE TRIGGER %I %s', wanted.name, wanted.definition)
            )
        ),
        ARRAY(SELECT jsonb_array_elements_text(w.options -> 'omit')),
        (w.options ->> 'limit')::bigint,
        w.options ? 'strict',
        (SELECT count(*) FROM changefeed.members(w.target) AS m (member) JOIN pg_class AS c ON c.oid = m.member
         WHERE c.relkind = 'r' AND c.oid <> w.target),
        ARRAY(SELECT jsonb_array_elements_text(w.options -> 'hash'))
    FROM watched AS w
    ORDER BY 1, 2
$function$;

-- Brings what was watched before up to date: partitions and children that came since, a newer version of this file.
-- Returns the tables that needed it. The server calls it again and again. One that cannot be changed now does not keep
-- the others from it.
CREATE OR REPLACE FUNCTION changefeed.refresh(targets oid[])
RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    watched record;
BEGIN
    FOR watched IN
        SELECT t.tgrelid::regclass AS target, changefeed.options(t) AS options
        FROM pg_trigger AS t
        WHERE t.tgname IN ('changefeed_insert', '!changefeed_insert') AND NOT t.tgisinternal AND t.tgrelid = ANY (targets)
    LOOP
        BEGIN
            IF changefeed.apply(watched.target, watched.options) THEN
                RETURN NEXT watched.target::text;
            END IF;
        EXCEPTION WHEN lock_not_available OR insufficient_privilege OR object_in_use THEN
            RAISE WARNING 'changefeed: %', SQLERRM;
        END;
    END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.refresh()
RETURNS SETOF text LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    SELECT changefeed.refresh(ARRAY(
        SELECT t.tgrelid FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid AND NOT c.relispartition
        WHERE t.tgname IN ('changefeed_insert', '!changefeed_insert') AND NOT t.tgisinternal
    ))
$function$;

-- A partition that is made or attached is watched in the same transaction, where this role may make event triggers
-- (a superuser may); elsewhere the server's next refresh finds it. Only what the command was about is looked at, so that
-- other tables are not locked, and temporary ones cost nothing.
CREATE OR REPLACE FUNCTION changefeed.refresh_after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM changefeed.refresh(ARRAY(
        SELECT coalesce(pg_partition_root(c.objid), c.objid) FROM pg_event_trigger_ddl_commands() AS c
        WHERE c.classid = 'pg_class'::regclass
        UNION
        SELECT i.inhparent FROM pg_event_trigger_ddl_commands() AS c JOIN pg_inherits AS i ON i.inhrelid = c.objid
        WHERE c.classid = 'pg_class'::regclass
    ));
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'changefeed: new partitions are not watched yet: %', SQLERRM;
END
$function$;

DO $event_trigger$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'changefeed_new_partitions') THEN
        CREATE EVENT TRIGGER changefeed_new_partitions ON ddl_command_end
            WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION changefeed.refresh_after_ddl();
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END
$event_trigger$;

REVOKE ALL ON FUNCTION changefeed.watch(regclass, text[], bigint, boolean, text[]),
    changefeed.unwatch(regclass), changefeed.apply(regclass, jsonb), changefeed.refresh(), changefeed.refresh(oid[]), changefeed.refresh_after_ddl() FROM PUBLIC;
SELECT changefeed.refresh();

-- Version 4's, of which refresh took the triggers. Where a table was in use they stay, and cost a little until the next
-- refresh; their function then stays until this file is run again.
DO $version_4$
BEGIN
    DROP FUNCTION IF EXISTS changefeed.put_behind(smallint, integer, bigint, bigint, oid, text);
    DROP FUNCTION IF EXISTS changefeed.mark();
EXCEPTION WHEN dependent_objects_still_exist THEN
    NULL;
END
$version_4$;
