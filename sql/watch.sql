-- watch, unwatch, status: what users call to have tables recorded.
--
-- Without JIT: if settings make queries of the catalog seem expensive, compiling them takes seconds, and running them milliseconds.

-- Raises an error if the table cannot be watched.
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
        RAISE EXCEPTION '% is unlogged: PostgreSQL empties it after a crash, without a change in the feed', target
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
        RAISE EXCEPTION 'the name E''%'' has no text in UTF-8, which clients need', illegible
            USING ERRCODE = 'invalid_name', HINT = 'Rename the table, its schema or its column that has it.';
    END IF;
END
$function$;

DROP FUNCTION IF EXISTS changefeed.watch(regclass, text[], bigint, boolean);  -- version 2's
-- Watches a table: from the next statement on, its changes are recorded. Returns whether anything had to be changed.
--   omit       columns that never leave the table
--   row_limit  a statement of more rows than this becomes a single change with its action and the number of rows
--   strict     a write that cannot be recorded fails (see record.sql for what the default costs)
--   hash       columns whose values leave the table only as hashes (see hash.sql)
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
        RAISE EXCEPTION 'the column % cannot be both omitted and hashed', quote_ident(doubtful)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it in omit or in hash.';
    ELSIF row_limit < 1 THEN
        RAISE EXCEPTION 'row_limit must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    options := jsonb_strip_nulls(jsonb_build_object(
        'omit', CASE WHEN cardinality(omit) > 0 THEN to_jsonb(omit) END,
        'hash', CASE WHEN cardinality(hash) > 0 THEN to_jsonb(hash) END,
        'numbers', (
            SELECT jsonb_object_agg(a.attname, a.attnum) FROM pg_attribute AS a
            WHERE a.attrelid = target AND a.attname = ANY (omit || hash) AND a.attnum > 0 AND NOT a.attisdropped
        ),
        'limit', row_limit,
        'strict', CASE WHEN strict THEN true END
    ));
    PERFORM changefeed.check_expressions(target, omit);
    PERFORM changefeed.warn_of_limits(target);
    PERFORM changefeed.check_triggers(target);
    RETURN EXISTS (SELECT FROM changefeed.repairs(ARRAY[target]::oid[], ARRAY[options])) AND changefeed.apply(target, options);
END
$function$;

-- Warns of properties of a table that the feed does not, or cannot, respect.
CREATE OR REPLACE FUNCTION changefeed.warn_of_limits(target regclass)
RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    partition regclass;
BEGIN
    IF EXISTS (
        SELECT FROM changefeed.members(target) AS m (member)
        CROSS JOIN LATERAL (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = m.member OFFSET 0) AS c
        WHERE c.relrowsecurity
    ) THEN
        RAISE NOTICE 'row-level security of % is not applied by the feed', target
            USING HINT = 'Limit the rows in the rights of the server''s tokens.';
    END IF;
    IF EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = target AND i.indisprimary AND NOT i.indimmediate) THEN
        RAISE NOTICE 'the primary key of % is deferrable: until they commit, two rows of % may have the same key', target, target
            USING HINT = 'Who keeps rows by key may then lack one. docs/database.md says when, under "The order of one row".';
    END IF;
    IF current_setting('temp_file_limit') <> '-1' THEN
        RAISE NOTICE 'temp_file_limit now also counts the old and new rows of a statement on %', target
            USING HINT = 'A statement of many rows may now exceed it; raise it for roles that run such statements.';
    END IF;
    FOR partition IN
        SELECT c.oid FROM changefeed.members(target) AS m (member)
        CROSS JOIN LATERAL (SELECT c.oid, c.relpersistence FROM pg_class AS c WHERE c.oid = m.member OFFSET 0) AS c
        WHERE c.relpersistence = 'u'
    LOOP
        RAISE WARNING '% is unlogged: PostgreSQL empties it after a crash, without a change in the feed', partition
            USING HINT = format('ALTER TABLE %s SET LOGGED.', partition);
    END LOOP;
    FOR partition IN
        SELECT c.oid
        FROM changefeed.members(target) AS m (member)
        CROSS JOIN LATERAL (SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = m.member OFFSET 0) AS i
        CROSS JOIN LATERAL (SELECT c.oid, c.relkind FROM pg_class AS c WHERE c.oid = i.inhrelid OFFSET 0) AS c
        WHERE c.relkind = 'f'
    LOOP
        RAISE NOTICE '% is a foreign table: what is written to it is not recorded, and a row that moves to it is reported as deleted', partition
            USING HINT = 'Each row of its other partitions now costs a trigger call, since PostgreSQL has no transition tables there.';
    END LOOP;
END
$function$;

-- Stops watching a table; recorded changes stay. Returns whether the table was watched.
CREATE OR REPLACE FUNCTION changefeed.unwatch(target regclass)
RETURNS boolean LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    SELECT changefeed.apply(target, NULL)
$function$;

-- Version 2's had no `hash`, and the columns that a function returns cannot be changed.
DO $version_2$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_proc WHERE pronamespace = 'changefeed'::regnamespace AND proname = 'status' AND 'hash' = ANY (proargnames)
    ) THEN
        DROP FUNCTION IF EXISTS changefeed.status();
    END IF;
END
$version_2$;

-- The watched tables, each with its options. `is_complete` says whether all triggers of the table and its partitions are as they
-- should be, and enabled.
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
        WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname <> 'request' AND t.tgenabled NOT IN ('O', 'A')
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
