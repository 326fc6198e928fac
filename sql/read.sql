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
CREATE OR REPLACE FUNCTION changefeed.read(
    previous pg_snapshot, batch pg_snapshot, after bigint, row_limit integer, byte_limit bigint
) RETURNS TABLE (
    id bigint, xid text, at text, action text, schema_name text, table_name text, data text, old text, row_count bigint,
    snapshot text, has_more boolean, epoch text, lost_xid text, lost_id bigint, losses bigint
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
    entries refcursor;
    entry record;
BEGIN
    batch := coalesce(batch, changefeed.settled_snapshot(previous));
    has_more := false;
    IF after IS NULL THEN
        -- By the index on (xid, id), and a sort, hence the + 0.
        OPEN entries NO SCROLL FOR
            SELECT j.id, j.xid, j.at, j.action, j.schema_name, j.table_name, j.data, j.old, j.row_count
            FROM changefeed.journal AS j
            WHERE (j.xid >= pg_snapshot_xmax(previous) OR j.xid = ANY (running)) AND pg_visible_in_snapshot(j.xid, batch)
            ORDER BY j.id + 0 LIMIT row_limit + 1;
    ELSE
        OPEN entries NO SCROLL FOR
            SELECT j.id, j.xid, j.at, j.action, j.schema_name, j.table_name, j.data, j.old, j.row_count
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
            EXIT;
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
