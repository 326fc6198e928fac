-- watch, unwatch, status: which tables are journaled. Their only memory is the triggers themselves, so there is nothing
-- that could disagree with the catalog.
--
-- A trigger of ours is known by its function, never by its name, which anybody may give to a trigger of their own. Triggers
-- are compared by their columns in pg_trigger, never by their definitions' texts, which depend on settings and locales.
--
-- Without JIT: where settings make plans of the catalog seem dear, to compile them takes seconds, and to run them milliseconds.

-- The functions that record changes: a table is watched where one of its triggers calls one of them.
CREATE OR REPLACE FUNCTION changefeed.recorders()
RETURNS oid[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT ARRAY['changefeed.record()'::regprocedure, 'changefeed.record_strict()'::regprocedure]::oid[]
$function$;

-- Tables (`root`) and all their partitions, with how deep these lie. Not by pg_partition_tree, which locks each, and so waits
-- behind a VACUUM FULL.
CREATE OR REPLACE FUNCTION changefeed.members(roots oid[])
RETURNS TABLE (root oid, member oid, level integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE members (root, member, level) AS (
        SELECT r, r, 0 FROM unnest(roots) AS r
        UNION ALL
        SELECT m.root, c.oid, m.level + 1
        FROM members AS m JOIN pg_inherits AS i ON i.inhparent = m.member JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE c.relispartition AND c.relkind IN ('r', 'p')  -- foreign tables can have no such triggers
    )
    SELECT * FROM members
$function$;

CREATE OR REPLACE FUNCTION changefeed.members(target oid)
RETURNS SETOF oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT m.member FROM changefeed.members(ARRAY[target]) AS m
$function$;

-- The argument that a trigger of ours was made with; null where it is none of ours. pg_trigger.tgargs ends with a zero byte.
CREATE OR REPLACE FUNCTION changefeed.argument(tgargs bytea)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    argument jsonb := '{}';
BEGIN
    IF tgargs <> '' THEN
        argument := convert_from(rtrim(tgargs, decode('00', 'hex')), getdatabaseencoding())::jsonb;
    END IF;
    PERFORM (argument ->> 'limit')::bigint, jsonb_array_elements_text(argument -> 'omit'),
        jsonb_array_elements_text(argument -> 'hash');
    RETURN CASE WHEN jsonb_typeof(argument) = 'object' THEN argument END;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$function$;

-- The watched tables among `targets`, or all: each with the options of watch(), which are null where they are unreadable. A
-- partition is its root's; one that was detached is a table of its own.
CREATE OR REPLACE FUNCTION changefeed.watched(targets oid[] DEFAULT NULL)
RETURNS TABLE (target oid, options jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH recording AS (
        SELECT DISTINCT ON (t.tgrelid) t.tgrelid, t.tgfoid, changefeed.argument(t.tgargs) AS argument
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid AND NOT c.relispartition
        WHERE t.tgfoid = ANY (changefeed.recorders()) AND t.tgparentid = 0
          AND (targets IS NULL OR t.tgrelid = ANY (targets))
        ORDER BY t.tgrelid, t.tgtype & 4 DESC, t.oid  -- the one for INSERT, where there is one
    )
    SELECT r.tgrelid, r.argument - '{root,moves,dynamic}'::text[] || CASE
        WHEN r.tgfoid = 'changefeed.record_strict()'::regprocedure THEN '{"strict": true}' ELSE '{}'
    END::jsonb
    FROM recording AS r
$function$;

-- Whether rows of a partitioned table may be elsewhere, in a foreign table.
CREATE OR REPLACE FUNCTION changefeed.has_foreign_partition(root oid)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT EXISTS (
        SELECT FROM changefeed.members(ARRAY[root]) AS m JOIN pg_inherits AS i ON i.inhparent = m.member
        JOIN pg_class AS c ON c.oid = i.inhrelid WHERE c.relkind = 'f' AND c.relispartition
    )
$function$;

-- The triggers that tables and their partitions ought to have: each with its columns of pg_trigger. A table that inherits, or
-- is inherited from, gets triggers for each row: those for a statement would not tell which of the tables a row is in.
DROP FUNCTION IF EXISTS changefeed.wanted_triggers(regclass, jsonb);  -- version 4's
CREATE OR REPLACE FUNCTION changefeed.wanted_triggers(roots oid[], options jsonb[])
RETURNS TABLE (
    root oid, member oid, level integer, name name, type integer, function oid, argument text, old_table name, new_table name
)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH asked AS MATERIALIZED (
        SELECT o.root, o.options, changefeed.has_foreign_partition(o.root) AS has_foreign_partition
        FROM unnest(roots, options) AS o (root, options) WHERE o.options IS NOT NULL
    ), facts AS (
        SELECT
            m.*,
            o.options,
            c.relispartition AS is_partition,
            c.relkind = 'p' AS is_partitioned,
            CASE
                -- PostgreSQL refuses transition tables, and so the write, where it reaches a foreign partition.
                WHEN c.relispartition OR c.relkind = 'p' THEN o.has_foreign_partition
                ELSE EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid)
                    OR EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid)
            END AS is_rowwise,
            EXISTS (
                SELECT FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped
            ) AS has_virtual,
            c.relispartition AND (
                SELECT string_agg(quote_ident(a.attname), ',' ORDER BY a.attnum) FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            ) <> (
                SELECT string_agg(quote_ident(a.attname), ',' ORDER BY a.attnum) FROM pg_attribute AS a
                WHERE a.attrelid = m.root AND a.attnum > 0 AND NOT a.attisdropped
            ) AS is_in_another_order
        FROM changefeed.members(roots) AS m JOIN pg_class AS c ON c.oid = m.member
        JOIN asked AS o ON o.root = m.root
    ), arguments AS (
        SELECT *,
            (options - 'strict')
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
        CASE WHEN a.argument <> '{}' THEN a.argument::text END,
        CASE WHEN NOT a.is_rowwise THEN w.old_table END,
        CASE WHEN NOT a.is_rowwise THEN w.new_table END
    FROM arguments AS a,
    -- Triggers fire in the order of their names. ~ comes after others: so what a statement's triggers wrote stands before it,
    -- and is not taken for what the next statement's did. For each row, ! comes before others, which may write the row again.
    -- The type is a sum: 2 BEFORE, 4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE.
    (VALUES
        ('~changefeed_insert', 4, true, NULL::regprocedure, NULL, 'new_rows'),
        ('~changefeed_update', 16, true, NULL, 'old_rows', 'new_rows'),
        ('~changefeed_delete', 8, true, NULL, 'old_rows', NULL),
        ('changefeed_never', 1 + 2 + 4, false, 'changefeed.never()', NULL, NULL),
        -- What others write when this fires comes after the TRUNCATE, which states of rows alone would not tell.
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
            AND current_setting('server_version_num')::integer >= 150000  -- which brought MERGE
        ELSE NOT (a.is_partitioned AND a.is_rowwise)
    END
$function$;

-- The trigger by which somebody with the right TRIGGER asks for a table to be watched. Its argument is the options.
CREATE OR REPLACE FUNCTION changefeed.request() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN NULL;
END
$function$;

-- What makes the triggers of tables and their partitions what they ought to be; where a table's options are null, what takes
-- them away. What locks each table comes first, in the order in which writers lock them, the root before its partitions: a lock
-- that cannot be had is known before triggers were made in vain, for which writers waited.
CREATE OR REPLACE FUNCTION changefeed.repairs(roots oid[], options jsonb[])
RETURNS TABLE (root oid, statement text) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH ours AS (
        SELECT m.root, m.member, m.level, t.* FROM changefeed.members(roots) AS m JOIN pg_trigger AS t ON t.tgrelid = m.member
        WHERE t.tgfoid IN (SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'changefeed'::regnamespace)
          AND (t.tgfoid <> 'changefeed.request()'::regprocedure OR t.tgname ~ '^[!~]?changefeed_insert$')
          AND t.tgparentid = 0 AND NOT t.tgisinternal
    ), wanted AS (
        SELECT w.*, coalesce(convert_to(w.argument, getdatabaseencoding()) || decode('00', 'hex'), '') AS tgargs
        FROM changefeed.wanted_triggers(roots, options) AS w
    ), renamed AS (
        SELECT DISTINCT ON (w.member, w.name) w.member, w.name, t.tgname
        FROM wanted AS w JOIN ours AS t ON t.member = w.member AND ltrim(t.tgname, '!~') = ltrim(w.name, '!~')
        WHERE NOT EXISTS (SELECT FROM ours AS o WHERE o.member = w.member AND o.tgname = w.name)
          AND t.tgfoid = ANY (changefeed.recorders()) AND t.tgconstraint = 0
    )
    SELECT coalesce(w.root, t.root), CASE
        -- One that stays but for its name keeps its oid, by which a look knows that it never ceased to record.
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
                || CASE WHEN w.function = 'changefeed.never()'::regprocedure THEN ' WHEN (false)' ELSE '' END,
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
       OR (t.tgqual IS NOT NULL) <> (w.function = 'changefeed.never()'::regprocedure)
    ORDER BY
        -- To drop or rename one needs a stronger lock than to make one.
        row_number() OVER (PARTITION BY coalesce(w.member, t.member) ORDER BY w.name IS NOT NULL) > 1,
        coalesce(w.level, t.level), coalesce(w.member, t.member), w.name IS NOT NULL
$function$;

-- How long one attempt waits for locks at most, in milliseconds: writers queue up behind whoever waits. It is less than a
-- lock_timeout that writers have, and less than the deadlock_timeout after which PostgreSQL would end a writer who holds what is
-- waited for, and waits for what is held here.
CREATE OR REPLACE FUNCTION changefeed.lock_wait_ms()
RETURNS integer LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT least(8, greatest(setting::integer / 4, 1)) FROM pg_settings WHERE name = 'deadlock_timeout'
$function$;

-- Makes the triggers of a table and its partitions what they ought to be, or drops them where `options` is null. True where
-- that changed anything. A table that is as it ought to be is not locked. Fails with lock_not_available, and changes nothing,
-- where its locks cannot be had within `wait_ms`, all together.
CREATE OR REPLACE FUNCTION changefeed.try_to_apply(target oid, options jsonb, wait_ms integer)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
DECLARE
    squatter name;
    statements text[];
    statement text;
    due timestamptz;
    unrecorded oid[];
BEGIN
    SELECT t.tgname INTO squatter
    FROM changefeed.wanted_triggers(ARRAY[target], ARRAY[options]) AS w JOIN pg_trigger AS t ON t.tgrelid = w.member AND t.tgname = w.name
    WHERE t.tgfoid NOT IN (SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'changefeed'::regnamespace);
    IF squatter IS NOT NULL THEN
        RAISE EXCEPTION '% has a trigger % that is none of the change feed''s', target::regclass, quote_ident(squatter)
            USING ERRCODE = 'duplicate_object', HINT = 'Give that trigger another name.';
    END IF;
    IF options IS NOT NULL THEN
        unrecorded := changefeed.unrecorded(target);
    END IF;
    statements := ARRAY(SELECT r.statement FROM changefeed.repairs(ARRAY[target], ARRAY[options]) AS r);
    due := clock_timestamp() + wait_ms * interval '1 millisecond';  -- from here on writers may wait
    FOREACH statement IN ARRAY statements LOOP
        PERFORM set_config(
            'lock_timeout', greatest(extract(epoch FROM due - clock_timestamp()) * 1000, 1)::integer::text, true
        );
        EXECUTE statement;
    END LOOP;
    IF unrecorded <> '{}' AND statements <> '{}' THEN
        PERFORM changefeed.note_empty(target, unrecorded);
    END IF;
    RETURN statements <> '{}';
END
$function$;

-- Fails for what is no table that can be watched.
CREATE OR REPLACE FUNCTION changefeed.check_target(target regclass)
RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    kind "char";
    is_partition boolean;
    persistence "char";
    illegible text;
BEGIN
    SELECT c.relkind, c.relispartition, c.relpersistence INTO kind, is_partition, persistence
    FROM pg_class AS c WHERE c.oid = target;
    IF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', target
            USING ERRCODE = 'wrong_object_type', HINT = 'Watch the tables it takes its rows from.';
    ELSIF EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = target AND (n.nspname IN ('pg_catalog', 'information_schema') OR n.nspname ~ '^pg_toast')
    ) THEN
        RAISE EXCEPTION '% is a table of PostgreSQL itself, which has no triggers', target
            USING ERRCODE = 'wrong_object_type', HINT = 'Watch tables of your own.';
    ELSIF persistence = 't' THEN
        RAISE EXCEPTION '% is a temporary table', target USING ERRCODE = 'wrong_object_type';
    ELSIF is_partition THEN
        RAISE EXCEPTION '% is a partition', target USING ERRCODE = 'wrong_object_type',
            HINT = format('Watch %s, whose partitions are watched with it.', pg_partition_root(target));
    ELSIF (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = target) = ANY (
        ARRAY[to_regnamespace('changefeed'), to_regnamespace('changefeed_secret')]::oid[]
    ) THEN
        RAISE EXCEPTION '% belongs to the change feed itself', target
            USING ERRCODE = 'wrong_object_type', HINT = 'Watch tables of your own.';
    ELSIF persistence = 'u' AND NOT EXISTS (SELECT FROM changefeed.watched(ARRAY[target]::oid[])) THEN
        RAISE EXCEPTION '% is unlogged: PostgreSQL empties it after a crash, which nobody would be told', target
            USING ERRCODE = 'wrong_object_type', HINT = format('ALTER TABLE %s SET LOGGED first.', target);
    END IF;
    SELECT changefeed.shown(n.name) INTO illegible
    FROM (
        SELECT unnest(ARRAY[n.nspname, c.relname]::text[])
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = target
        UNION ALL
        SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
    ) AS n (name)
    WHERE changefeed.shown(n.name) <> n.name LIMIT 1;
    IF illegible IS NOT NULL THEN
        RAISE EXCEPTION 'the name E''%'' has no text in UTF-8, in which clients are told of changes', illegible
            USING ERRCODE = 'invalid_name', HINT = 'Rename the table, its schema or its column that has it.';
    END IF;
END
$function$;

-- Makes, as the schema's owner, the triggers of a table for which that was asked. One attempt.
CREATE OR REPLACE FUNCTION changefeed.grant_request(target regclass)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    asked jsonb;
BEGIN
    SELECT changefeed.argument(t.tgargs) INTO asked FROM pg_trigger AS t
    WHERE t.tgrelid = target AND t.tgfoid = 'changefeed.request()'::regprocedure AND t.tgname ~ '^[!~]?changefeed_insert$';
    IF asked IS NULL THEN
        RAISE EXCEPTION 'nobody asked for % to be watched', target
            USING ERRCODE = 'insufficient_privilege', HINT = 'Call changefeed.watch.';
    END IF;
    PERFORM changefeed.check_target(target);
    RETURN changefeed.try_to_apply(
        target,
        (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(asked) WHERE key IN ('omit', 'hash', 'limit', 'strict')),
        changefeed.lock_wait_ms()
    );
END
$function$;

-- The same, again and again for as long as this function's lock_timeout says, all together. Between two attempts nothing is
-- locked, so that writers go on, for several times as long as the attempt may have kept them waiting.
--
-- Whoever may not call the recording functions but has the right TRIGGER on the table asks by a trigger that does nothing,
-- which PostgreSQL lets nobody else make; the schema's owner then makes the real ones.
CREATE OR REPLACE FUNCTION changefeed.apply(target regclass, options jsonb)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET exit_on_error = off SET lock_timeout = '3s' AS $function$
DECLARE
    patience constant text := current_setting('lock_timeout');
    wait_ms integer := 1;  -- the first attempt finds a table that nobody uses
    pause interval;
    deadline constant timestamptz := clock_timestamp() + (
        SELECT s.setting::integer * interval '1 millisecond' FROM pg_settings AS s WHERE s.name = 'lock_timeout'
    );
BEGIN
    LOOP
        BEGIN
            IF options IS NULL OR has_function_privilege('changefeed.record()', 'EXECUTE') THEN
                RETURN changefeed.try_to_apply(target, options, wait_ms);
            END IF;
            PERFORM set_config('lock_timeout', wait_ms::text, true);
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH STATEMENT EXECUTE FUNCTION changefeed.request(%L)',
                (
                    SELECT w.name FROM changefeed.wanted_triggers(ARRAY[target]::oid[], ARRAY[options]) AS w
                    WHERE w.member = target AND w.type & 4 > 0
                ),
                target, options
            );
            RETURN changefeed.grant_request(target);
        EXCEPTION WHEN lock_not_available THEN
            pause := wait_ms * (4 + 4 * random()) * interval '1 millisecond';
            IF clock_timestamp() + pause > deadline THEN
                RAISE EXCEPTION 'the triggers of % could not be %: it, or a partition of it, was in use for %',
                    target, CASE WHEN options IS NULL THEN 'dropped' ELSE 'changed' END, patience
                    USING ERRCODE = 'lock_not_available',
                    HINT = 'Nothing was changed. Try again when the transactions that hold it are over.';
            END IF;
        END;
        PERFORM pg_sleep(extract(epoch FROM pause));
        wait_ms := least(2 * wait_ms, changefeed.lock_wait_ms());
    END LOOP;
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
) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
    unknown text;
    doubtful text;
    options jsonb;
BEGIN
    PERFORM changefeed.check_target(target);
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
    options := jsonb_strip_nulls(jsonb_build_object(
        'omit', CASE WHEN cardinality(omit) > 0 THEN to_jsonb(omit) END,
        'hash', CASE WHEN cardinality(hash) > 0 THEN to_jsonb(hash) END,
        'limit', row_limit,
        'strict', CASE WHEN strict THEN true END
    ));
    PERFORM changefeed.warn_of_limits(target);
    RETURN EXISTS (SELECT FROM changefeed.repairs(ARRAY[target]::oid[], ARRAY[options])) AND changefeed.apply(target, options);
END
$function$;

-- What a table has that the feed does not, or cannot, keep: told to whoever watches it.
CREATE OR REPLACE FUNCTION changefeed.warn_of_limits(target regclass)
RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    partition regclass;
BEGIN
    IF EXISTS (
        SELECT FROM pg_class AS c WHERE c.oid IN (SELECT changefeed.members(target)) AND c.relrowsecurity
    ) THEN
        RAISE NOTICE 'row-level security of % is not applied by the feed', target
            USING HINT = 'Say who may see which rows in the rights of the server''s tokens.';
    END IF;
    IF current_setting('temp_file_limit') <> '-1' THEN
        RAISE NOTICE 'temp_file_limit counts the rows of a statement on % too, those before and those after it', target
            USING HINT = 'A statement of many rows may fail by it that did not before; raise it for roles that write so many.';
    END IF;
    FOR partition IN
        SELECT c.oid FROM pg_class AS c WHERE c.oid IN (SELECT changefeed.members(target)) AND c.relpersistence = 'u'
    LOOP
        RAISE WARNING '% is unlogged: PostgreSQL empties it after a crash, which nobody is told', partition
            USING HINT = format('ALTER TABLE %s SET LOGGED.', partition);
    END LOOP;
    FOR partition IN
        SELECT c.oid
        FROM changefeed.members(target) AS m (member) JOIN pg_inherits AS i ON i.inhparent = m.member
        JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relkind = 'f'
    LOOP
        RAISE NOTICE '% is a foreign table: what is written to it is not recorded, and a row that moves to it is told as deleted', partition
            USING HINT = 'Each row of its other partitions now costs a trigger''s call, since PostgreSQL has no transition tables there.';
    END LOOP;
END
$function$;

-- Ends it; what was journaled stays. Returns whether the table had been watched.
CREATE OR REPLACE FUNCTION changefeed.unwatch(target regclass)
RETURNS boolean LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    SELECT changefeed.apply(target, NULL)
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
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    WITH watched AS (
        SELECT * FROM changefeed.watched()
    ), roots AS (
        SELECT array_agg(target) AS targets, array_agg(options) AS options FROM watched
    ), members AS (
        SELECT m.root, c.oid, c.relkind FROM roots, changefeed.members(roots.targets) AS m JOIN pg_class AS c ON c.oid = m.member
    ), incomplete AS (
        SELECT r.root FROM roots, changefeed.repairs(roots.targets, roots.options) AS r
        UNION
        SELECT m.root FROM members AS m JOIN pg_trigger AS t ON t.tgrelid = m.oid JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE p.pronamespace = 'changefeed'::regnamespace AND t.tgenabled NOT IN ('O', 'A')
    ), partitions AS (
        SELECT m.root, count(*) AS number FROM members AS m WHERE m.relkind = 'r' AND m.oid <> m.root GROUP BY m.root
    )
    SELECT n.nspname, c.relname,
        w.options IS NOT NULL AND w.target NOT IN (SELECT i.root FROM incomplete AS i),
        ARRAY(SELECT jsonb_array_elements_text(w.options -> 'omit')),
        (w.options ->> 'limit')::bigint,
        coalesce(w.options ? 'strict', false),
        coalesce(p.number, 0),
        ARRAY(SELECT jsonb_array_elements_text(w.options -> 'hash'))
    FROM watched AS w JOIN pg_class AS c ON c.oid = w.target JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN partitions AS p ON p.root = w.target
    ORDER BY 1, 2
$function$;

-- Partitions with triggers of ours whose root is not watched: they were detached from one that is, and attached to another.
CREATE OR REPLACE FUNCTION changefeed.left_behind(targets oid[] DEFAULT NULL)
RETURNS SETOF oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT DISTINCT t.tgrelid
    FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid AND c.relispartition
    WHERE t.tgfoid = ANY (changefeed.recorders()) AND t.tgparentid = 0
      AND (targets IS NULL OR pg_partition_root(t.tgrelid) = ANY (targets))
    EXCEPT
    SELECT m.member FROM changefeed.members(ARRAY(SELECT w.target FROM changefeed.watched(targets) AS w)) AS m
$function$;

-- Brings what was watched before up to date: partitions and children that came since, a newer version of this file.
-- Returns the tables that needed it. One that cannot be changed now does not keep the others from it. Writers of
-- what it has changed wait until it ends: so it works on only for a moment then, and what is left is for the next call.
CREATE OR REPLACE FUNCTION changefeed.refresh_tables(targets oid[])
RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET exit_on_error = off AS $function$
DECLARE
    patience_ms double precision := 10 * changefeed.lock_wait_ms();
    started_at timestamptz;
    changing_since timestamptz;
    tended record;
BEGIN
    FOR tended IN
        WITH watched AS (
            SELECT * FROM changefeed.watched(targets)
        ), roots AS (
            SELECT array_agg(w.target) AS targets, array_agg(w.options) AS options FROM watched AS w WHERE w.options IS NOT NULL
        )
        SELECT w.target, w.options, w.options IS NULL AS is_unreadable FROM watched AS w
        WHERE w.options IS NULL
           OR w.target IN (SELECT r.root FROM roots, changefeed.repairs(roots.targets, roots.options) AS r)
        UNION ALL
        SELECT l.target, NULL, false FROM changefeed.left_behind(targets) AS l (target)
    LOOP
        IF clock_timestamp() > changing_since + 3 * changefeed.lock_wait_ms() * interval '1 millisecond' THEN
            RAISE NOTICE 'changefeed: not all tables were looked at; call changefeed.refresh() again';
            RETURN;
        END IF;
        started_at := clock_timestamp();
        BEGIN
            IF tended.is_unreadable THEN
                PERFORM changefeed.warn(format(
                    'the options of %s cannot be read; call changefeed.watch for it again', tended.target::regclass
                ));
            ELSIF changefeed.try_to_apply(
                tended.target, tended.options,
                CASE WHEN changing_since IS NULL THEN greatest(least(patience_ms, changefeed.lock_wait_ms()), 1) ELSE 1 END::integer
            ) THEN
                changing_since := coalesce(changing_since, started_at);
                RETURN NEXT tended.target::regclass::text;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            patience_ms := patience_ms - extract(epoch FROM clock_timestamp() - started_at) * 1000;
            PERFORM changefeed.warn(format(
                'the triggers of %s could not be changed: it, or a partition of it, is in use', tended.target::regclass
            ));
        WHEN OTHERS THEN
            PERFORM changefeed.warn(format('the triggers of %s could not be changed: %s', tended.target::regclass, SQLERRM));
        END;
    END LOOP;
END
$function$;

-- The same as the schema's owner, for a server that may not call the recording functions.
CREATE OR REPLACE FUNCTION changefeed.refresh(targets oid[])
RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
    SELECT changefeed.refresh_tables(targets)
$function$;

-- Of all tables; the server calls it again and again.
CREATE OR REPLACE FUNCTION changefeed.refresh()
RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF has_function_privilege('changefeed.refresh_tables(oid[])', 'EXECUTE') THEN
        RETURN QUERY SELECT changefeed.refresh_tables(NULL);
    ELSE
        RETURN QUERY SELECT changefeed.refresh(NULL::oid[]);
    END IF;
END
$function$;

-- A partition that is made or attached is watched in the same transaction, where a superuser installed this; elsewhere the
-- server's next refresh finds it. Only what the command was about is looked at, so that other tables are not locked, and
-- temporary ones cost nothing.
CREATE OR REPLACE FUNCTION changefeed.refresh_after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET exit_on_error = off AS $function$
DECLARE
    targets oid[];
BEGIN
    targets := ARRAY(
        SELECT coalesce(pg_partition_root(c.objid), c.objid) FROM pg_event_trigger_ddl_commands() AS c
        WHERE c.classid = 'pg_class'::regclass AND c.schema_name <> 'pg_temp'
        UNION
        SELECT i.inhparent FROM pg_event_trigger_ddl_commands() AS c JOIN pg_inherits AS i ON i.inhrelid = c.objid
        WHERE c.classid = 'pg_class'::regclass AND c.schema_name <> 'pg_temp'
    );
    IF targets <> '{}' THEN
        PERFORM changefeed.refresh_tables(targets);
    END IF;
EXCEPTION WHEN OTHERS THEN
    PERFORM changefeed.warn(format('new partitions are not watched yet: %s', SQLERRM));
END
$function$;

-- Only where the function's owner is a superuser too: an event trigger runs its function for everybody, and whoever owns the
-- function may replace it.
DO $event_trigger$
BEGIN
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user)
       AND NOT EXISTS (
           SELECT FROM pg_event_trigger AS e
           WHERE e.evtname = 'changefeed_new_partitions' AND e.evtfoid = 'changefeed.refresh_after_ddl()'::regprocedure
             AND cardinality(e.evttags) = 3
       ) THEN
        DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions;
        CREATE EVENT TRIGGER changefeed_new_partitions ON ddl_command_end
            WHEN TAG IN ('CREATE TABLE', 'CREATE FOREIGN TABLE', 'ALTER TABLE') EXECUTE FUNCTION changefeed.refresh_after_ddl();
    END IF;
END
$event_trigger$;

DROP FUNCTION IF EXISTS changefeed.options(pg_trigger);  -- version 4's
