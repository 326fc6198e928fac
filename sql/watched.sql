-- Finds the watched tables, their options and their partitions. Only the triggers themselves record that, so there is nothing that
-- could disagree with the catalog.
--
-- A trigger of ours is known by its function, never by its name, which any user may give to another trigger.

-- The functions that record changes: a table is watched if one of its triggers calls one of them.
CREATE OR REPLACE FUNCTION changefeed.recorders()
RETURNS oid[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT ARRAY['changefeed.record()'::regprocedure, 'changefeed.record_strict()'::regprocedure]::oid[]
$function$;

-- Tables (`root`) and all their partitions, with their depth. Does not use pg_partition_tree, which locks each table, and so waits
-- for a VACUUM FULL.
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

DROP FUNCTION IF EXISTS changefeed.options(pg_trigger);  -- version 4's
-- The argument of a trigger of ours; null if it is not one of ours. pg_trigger.tgargs ends with a zero byte.
CREATE OR REPLACE FUNCTION changefeed.argument(tgargs bytea)
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    argument jsonb := '{}';
BEGIN
    IF tgargs <> '' THEN
        argument := convert_from(rtrim(tgargs, decode('00', 'hex')), getdatabaseencoding())::jsonb;
    END IF;
    PERFORM (argument ->> 'limit')::bigint, (argument ->> 'gone_in')::oid, jsonb_array_elements_text(argument -> 'omit'),
        jsonb_array_elements_text(argument -> 'hash');
    PERFORM n.value::smallint FROM jsonb_each_text(argument -> 'numbers') AS n;
    RETURN CASE WHEN jsonb_typeof(argument) = 'object' THEN argument END;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$function$;

-- The watched tables among `targets`, or all, each with its options of watch(); these are null if they are unreadable. A partition
-- belongs to its root; a detached one is a table of its own.
CREATE OR REPLACE FUNCTION changefeed.watched(targets oid[] DEFAULT NULL)
RETURNS TABLE (target oid, options jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH recording AS (
        SELECT DISTINCT ON (t.tgrelid) t.tgrelid, t.tgfoid, changefeed.argument(t.tgargs) AS argument
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid AND NOT c.relispartition
        WHERE t.tgfoid = ANY ((SELECT changefeed.recorders())::oid[]) AND t.tgparentid = 0
          AND (targets IS NULL OR t.tgrelid = ANY (targets))
        ORDER BY t.tgrelid, t.tgtype & 4 DESC, t.oid  -- the one for INSERT, if there is one
    )
    SELECT r.tgrelid, r.argument - '{root,moves,dynamic}'::text[] || CASE
        WHEN r.tgfoid = 'changefeed.record_strict()'::regprocedure THEN '{"strict": true}' ELSE '{}'
    END::jsonb
    FROM recording AS r
$function$;

-- Whether some rows of a partitioned table may be in a foreign table.
CREATE OR REPLACE FUNCTION changefeed.has_foreign_partition(root oid)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT EXISTS (
        SELECT FROM changefeed.members(ARRAY[root]) AS m JOIN pg_inherits AS i ON i.inhparent = m.member
        JOIN pg_class AS c ON c.oid = i.inhrelid WHERE c.relkind = 'f' AND c.relispartition
    )
$function$;

-- Partitions with triggers of ours whose root is not watched: they were detached from a watched table and attached to another one.
CREATE OR REPLACE FUNCTION changefeed.left_behind(targets oid[] DEFAULT NULL)
RETURNS SETOF oid LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT DISTINCT t.tgrelid
    FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid AND c.relispartition
    WHERE t.tgfoid = ANY ((SELECT changefeed.recorders())::oid[]) AND t.tgparentid = 0
      AND (targets IS NULL OR pg_partition_root(t.tgrelid) = ANY (targets))
    EXCEPT
    SELECT m.member FROM changefeed.members(ARRAY(SELECT w.target FROM changefeed.watched(targets) AS w)) AS m
$function$;
