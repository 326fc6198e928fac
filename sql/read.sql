-- Reading the journal: a cursor's place in, the changes after it out.
--
-- Ids are drawn before commit, so "id > the last" would lose what commits late; and waiting for the oldest running
-- transaction would stall behind any long one. So a batch is what has become visible since the last one, the difference
-- of two snapshots, in the order of id (as PgQ does it). Nothing is lost, nothing stalls, and no row comes twice.
--
-- A place is (previous, batch, after): everything visible in the snapshot `previous` was read, and of what became
-- visible by `batch` everything up to the id `after`, or nothing where that is null. Without a batch it is up to now.
--
-- Gives at most row_limit changes and stops after some byte_limit bytes of text, then one last row with the other
-- columns: the batch read, whether it has more, and how the journal stands. STABLE: all of it is seen by one snapshot,
-- the calling statement's.
--
-- The entries of a transaction come in the order of id. Where triggers wrote, or a foreign key's action did, that is not
-- the order in which its rows changed; then whoever reads puts it right (changefeed/nested_order.py). `nested` names the
-- page's transactions, by xid, in which triggers wrote, `cascaded` its tables (schema.table) into which actions may.

-- Before version 5 it told less, and what a function returns cannot be changed. Who might call it still may.
DO $version_4$
BEGIN
    IF EXISTS (
        SELECT FROM pg_proc
        WHERE pronamespace = 'changefeed'::regnamespace AND proname = 'read' AND NOT 'nested' = ANY (proargnames)
    ) THEN
        PERFORM set_config('changefeed.readers', string_agg(a.grantee::regrole::text, ', '), true)
        FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname = 'read' AND a.grantee NOT IN (0, p.proowner);
        DROP FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint);
    END IF;
END
$version_4$;

CREATE OR REPLACE FUNCTION changefeed.read(
    previous pg_snapshot, batch pg_snapshot, after bigint, row_limit integer, byte_limit bigint
) RETURNS TABLE (
    id bigint, xid text, at text, action text, schema_name text, table_name text, data text, old text, row_count bigint,
    snapshot text, has_more boolean, epoch text, lost_xid text, lost_id bigint, losses bigint,
    nested text[], cascaded text[]
)
-- Without seqscan the plan does not depend on statistics, which right after a rotation there are none of; so it can be made
-- once a connection, and planning is most of what a short read costs. Before PostgreSQL 18 such a plan seems so dear that
-- it would be compiled first (JIT), which takes far longer.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $function$
#variable_conflict use_column
DECLARE
    running xid8[] := ARRAY(SELECT pg_snapshot_xip(previous));
    taken integer := 0;
    taken_bytes bigint := 0;
    is_whole boolean := after IS NULL;  -- whether the page is the whole batch
    nested_xids xid8[] := '{}';
    lowest xid8;
    highest xid8;
    table_names text[] := '{}';
    entries refcursor;
    entry record;
BEGIN
    batch := coalesce(batch, changefeed.settled_snapshot(previous));
    has_more := false;
    IF after IS NULL THEN
        -- By the index on (xid, id), and a sort, hence the + 0.
        OPEN entries NO SCROLL FOR
            SELECT j.id, j.xid, j.at, j.action, j.schema_name, j.table_name, j.data, j.old, j.row_count,
                j.depth, format('%I.%I', j.schema_name, j.table_name) AS name
            FROM changefeed.journal AS j
            WHERE (j.xid >= pg_snapshot_xmax(previous) OR j.xid = ANY (running)) AND pg_visible_in_snapshot(j.xid, batch)
            ORDER BY j.id + 0 LIMIT row_limit + 1;
    ELSE
        OPEN entries NO SCROLL FOR
            SELECT j.id, j.xid, j.at, j.action, j.schema_name, j.table_name, j.data, j.old, j.row_count,
                j.depth, format('%I.%I', j.schema_name, j.table_name) AS name
            FROM changefeed.journal AS j
            WHERE (j.xid >= pg_snapshot_xmax(previous) OR j.xid = ANY (running)) AND pg_visible_in_snapshot(j.xid, batch)
              AND j.id > after
            ORDER BY j.id LIMIT row_limit + 1;
    END IF;
    LOOP
        FETCH entries INTO entry;
        EXIT WHEN NOT FOUND;
        IF taken >= row_limit OR taken_bytes >= byte_limit THEN
            has_more := true;
            is_whole := false;
            EXIT;
        END IF;
        IF entry.depth > 1 AND entry.xid <> ALL (nested_xids) THEN
            nested_xids := nested_xids || entry.xid;
        END IF;
        IF lowest IS NULL OR entry.xid < lowest THEN
            lowest := entry.xid;
        END IF;
        IF highest IS NULL OR entry.xid > highest THEN
            highest := entry.xid;
        END IF;
        IF entry.name <> ALL (table_names) THEN
            table_names := table_names || entry.name;
        END IF;
        id := entry.id;
        xid := entry.xid;
        at := to_json(entry.at AT TIME ZONE 'UTC') #>> '{}' || '+00:00';
        action := entry.action;
        schema_name := entry.schema_name;
        table_name := entry.table_name;
        data := entry.data;
        old := entry.old;
        row_count := entry.row_count;
        taken := taken + 1;
        taken_bytes := taken_bytes + coalesce(octet_length(data), 0) + coalesce(octet_length(old), 0);
        RETURN NEXT;
    END LOOP;
    CLOSE entries;
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    INTO id, xid, at, action, schema_name, table_name, data, old, row_count;
    IF NOT is_whole THEN
        -- A transaction's nested entries may be on other pages. From one such transaction to the next in the index.
        WITH RECURSIVE nested (xid) AS (
            (SELECT j.xid FROM changefeed.journal AS j
             WHERE j.depth > 1 AND j.xid >= lowest AND j.xid <= highest ORDER BY j.xid LIMIT 1)
            UNION ALL
            SELECT (
                SELECT j.xid FROM changefeed.journal AS j
                WHERE j.depth > 1 AND j.xid > n.xid AND j.xid <= highest ORDER BY j.xid LIMIT 1
            )
            FROM nested AS n WHERE n.xid IS NOT NULL
        )
        SELECT array_agg(n.xid) INTO nested_xids FROM nested AS n WHERE n.xid IS NOT NULL;
    END IF;
    nested := nested_xids;
    cascaded := ARRAY(
        SELECT format('%s.%s', n.nspname, c.relname)
        FROM unnest(table_names) AS name
        JOIN pg_class AS c ON c.oid = to_regclass(name) JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE EXISTS (
            SELECT FROM pg_constraint AS f
            WHERE f.conrelid = c.oid AND f.contype = 'f' AND (f.confupdtype IN ('c', 'n', 'd') OR f.confdeltype IN ('c', 'n', 'd'))
        )
    );
    snapshot := batch;
    SELECT m.epoch INTO epoch FROM changefeed.meta AS m;
    -- After the entries: what was truncated meanwhile is in it.
    SELECT x.last_value, i.last_value INTO lost_xid, lost_id FROM changefeed.lost_xid AS x, changefeed.lost_id AS i;
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO losses FROM changefeed.losses;
    RETURN NEXT;
END
$function$;

-- The current snapshot, as far as the journal goes: up to its newest visible transaction, and not below `previous`. What
-- lies beyond would be no place to come back to. Of transactions that were rolled back nothing is written to disk at once,
-- so PostgreSQL may give their ids out again after a crash; ids up to a committed one are never given out again. In
-- plpgsql, for a plan that is made once.
CREATE OR REPLACE FUNCTION changefeed.settled_snapshot(previous pg_snapshot)
RETURNS pg_snapshot LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        WITH top AS (
            SELECT greatest(
                pg_snapshot_xmax(previous)::text::bigint,
                (SELECT j.xid::text::bigint + 1 FROM changefeed.journal AS j ORDER BY j.xid DESC LIMIT 1)
            ) AS xmax
        )
        SELECT format(
            '%s:%s:%s', coalesce(min(r.xid), max(top.xmax)), max(top.xmax), string_agg(r.xid::text, ',' ORDER BY r.xid)
        )::pg_snapshot
        FROM top LEFT JOIN (
            SELECT x::text::bigint AS xid FROM pg_snapshot_xip(pg_current_snapshot()) AS x
        ) AS r ON r.xid < top.xmax
    );
END
$function$;

REVOKE ALL ON FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint),
    changefeed.settled_snapshot(pg_snapshot) FROM PUBLIC;
DO $readers$
BEGIN
    IF current_setting('changefeed.readers', true) <> '' THEN
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint) TO %s',
            current_setting('changefeed.readers')
        );
    END IF;
END
$readers$;
