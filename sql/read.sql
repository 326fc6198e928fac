-- Reads the journal: the changes after a cursor's place.
--
-- Ids are drawn before commit, so "id > the last" would lose what commits late; and waiting for the oldest running
-- transaction would stall behind any long one. So a batch is what has become visible since the last batch: the difference
-- of two snapshots, in the order of id (as in PgQ). Nothing is lost, nothing stalls, and no row comes twice.
--
-- A place is (previous, batch, after): everything visible in the snapshot `previous` was read, and of what became
-- visible by `batch` everything up to the id `after`, or nothing if that is null. Without a batch, `batch` is the present.
--
-- Returns at most row_limit changes and stops after about byte_limit bytes of text. One last row has the other columns: the
-- batch, whether it has more, the journal's state, and the proof that the place belongs to this history.
-- STABLE: one snapshot, the calling statement's, sees all of it.
--
-- The proof. A crash may undo what was committed with synchronous_commit = off; a standby that lagged may be promoted; an older
-- copy of the files may be restored. PostgreSQL then assigns transaction ids again, and reading on from a place of the lost
-- history would skip what they commit. But a place ends right behind a transaction of which the journal had an entry (see
-- below). If that very entry is still there, no id below it is ever assigned again. So `proven_at` is when the entry in front of
-- the place was made, null if there is none: the reader compares it with the value from when the place was given. `batch_at`
-- is the same for the place behind this batch. Both are microseconds since 1970.
-- `taken` is the number of what_was_taken() at present, not as of the snapshot: it includes what retention deletes meanwhile.
-- `awake_ms` is how long the lease holds, see journal.sql; 0 if it does not.
-- `identity` says which journal this is: a restore over the same database keeps the uuid, but not the table's oid.
--
-- The entries of a transaction come in the order of id. That is not always the order in which its rows changed; then the reader
-- puts them in order (changefeed/ordering/nested_order.py). `nested` names the page's transactions, by xid, in which triggers
-- wrote; transactions that have entries on other pages, changefeed.mixed() must be asked about.
DO $drop$
BEGIN
    -- The columns that a function returns cannot be changed. Its privileges are granted again below.
    PERFORM set_config('changefeed.readers', coalesce((
        SELECT string_agg(DISTINCT a.grantee::regrole::text, ', ')
        FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname = 'read' AND a.grantee NOT IN (0, p.proowner)
    ), ''), true);
    DROP FUNCTION IF EXISTS changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint);
    DROP FUNCTION IF EXISTS changefeed.entries_of(xid8, bigint, bigint, integer);
END
$drop$;
CREATE FUNCTION changefeed.read(
    previous pg_snapshot, batch pg_snapshot, after bigint, row_limit integer, byte_limit bigint
) RETURNS TABLE (
    id bigint, xid text, at text, action text, schema_name text, table_name text, data text, old text, row_count bigint,
    snapshot text, has_more boolean, lost_xid text, lost_id bigint, lost_at bigint, losses bigint,
    proven_at bigint, batch_at bigint, present text, identity text, taken bigint,
    nested text[], awake_ms bigint
)
-- Without seqscan the plan does not depend on statistics, which do not exist right after a rotation. So it can be made once per
-- connection: planning is most of the cost of a short read. Before PostgreSQL 18 such a plan is estimated to cost so much that
-- it would be compiled first (JIT), which takes far longer.
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan SET jit = off AS $function$
#variable_conflict use_column
DECLARE
    sorted_limit constant integer := 50000;
    begun_after bigint := after;
    newest bigint;  -- the newest transaction of which the journal has an entry
    newest_at bigint;
    newest_id bigint;
    place_xmax bigint;
    batch_xmax bigint;
    known_id bigint;  -- of the last entry in front of the place
    running xid8[] := ARRAY(SELECT pg_snapshot_xip(previous));
    given integer := 0;
    given_bytes bigint := 0;
    nested_xids xid8[] := '{}';
    of_xid xid8;
    made_at timestamptz;
    entries refcursor;
    entry record;
BEGIN
    SELECT j.xid::text::bigint, (extract(epoch FROM j.at) * 1000000)::bigint, j.id INTO newest, newest_at, newest_id
    FROM changefeed.journal AS j ORDER BY j.xid DESC, j.id DESC LIMIT 1;
    place_xmax := CASE WHEN after IS NULL OR batch IS NULL THEN pg_snapshot_xmax(previous) ELSE pg_snapshot_xmax(batch) END::text::bigint;
    IF newest = place_xmax - 1 THEN
        proven_at := newest_at;
        known_id := newest_id;
    ELSE
        SELECT (extract(epoch FROM j.at) * 1000000)::bigint, j.id INTO proven_at, known_id
        FROM changefeed.journal AS j WHERE j.xid = (place_xmax - 1)::text::xid8 ORDER BY j.id DESC LIMIT 1;
    END IF;
    IF batch IS NULL THEN
        -- The current snapshot, but not beyond the journal's newest visible transaction, and not below `previous`.
        -- A place beyond it could not be proven: rolled-back transactions are not flushed to disk at once, so PostgreSQL may
        -- assign their ids again after a crash.
        batch_xmax := greatest(place_xmax, newest + 1);
        SELECT format('%s:%s:%s', coalesce(min(x.xid), batch_xmax), batch_xmax, string_agg(x.xid::text, ',' ORDER BY x.xid))
        INTO batch
        FROM (SELECT r::text::bigint AS xid FROM pg_snapshot_xip(pg_current_snapshot()) AS r) AS x
        WHERE x.xid < batch_xmax;
    ELSE
        batch_xmax := pg_snapshot_xmax(batch)::text::bigint;
    END IF;
    IF batch_xmax = place_xmax THEN
        batch_at := proven_at;
    ELSIF batch_xmax = newest + 1 THEN
        batch_at := newest_at;
    ELSE
        SELECT (extract(epoch FROM j.at) * 1000000)::bigint INTO batch_at
        FROM changefeed.journal AS j WHERE j.xid = (batch_xmax - 1)::text::xid8 ORDER BY j.id DESC LIMIT 1;
    END IF;
    has_more := false;
    -- If the batch has more entries than that, it is read along the ids; if no older transaction ran, ids show that it has fewer.
    IF after IS NULL AND NOT (
        running = '{}' AND known_id >= pg_sequence_last_value('changefeed.journal_id') - sorted_limit
    ) IS TRUE THEN
        PERFORM FROM changefeed.journal AS j
        WHERE (j.xid >= pg_snapshot_xmax(previous) OR j.xid = ANY (running)) AND pg_visible_in_snapshot(j.xid, batch)
        OFFSET sorted_limit LIMIT 1;
        IF FOUND THEN
            -- Skips partitions all of whose transactions were read before.
            SELECT min(p.first_id) - 1 INTO begun_after FROM (
                SELECT (SELECT j.id FROM changefeed.journal AS j WHERE j.slot = s.slot ORDER BY j.id LIMIT 1) AS first_id,
                       (SELECT j.xid FROM changefeed.journal AS j WHERE j.slot = s.slot ORDER BY j.xid DESC LIMIT 1) AS last_xid
                FROM unnest('{0,1,2,3,4,5,6,7}'::smallint[]) AS s (slot)
            ) AS p WHERE p.last_xid >= pg_snapshot_xmin(previous);
        END IF;
    END IF;
    IF begun_after IS NULL THEN
        -- By the index on (xid, id), and a sort, hence the + 0.
        OPEN entries NO SCROLL FOR
            SELECT j.id, j.xid, j.at, j.action, j.schema_name, j.table_name, j.data, j.old, j.row_count, j.depth
            FROM changefeed.journal AS j
            WHERE (j.xid >= pg_snapshot_xmax(previous) OR j.xid = ANY (running)) AND pg_visible_in_snapshot(j.xid, batch)
            ORDER BY j.id + 0 LIMIT row_limit + 1;
    ELSE
        OPEN entries NO SCROLL FOR
            SELECT j.id, j.xid, j.at, j.action, j.schema_name, j.table_name, j.data, j.old, j.row_count, j.depth
            FROM changefeed.journal AS j
            WHERE (j.xid >= pg_snapshot_xmax(previous) OR j.xid = ANY (running)) AND pg_visible_in_snapshot(j.xid, batch)
              AND j.id > begun_after
            ORDER BY j.id LIMIT row_limit + 1;
    END IF;
    FETCH entries INTO entry;
    WHILE entry.id IS NOT NULL LOOP
        IF given >= row_limit OR given_bytes >= byte_limit THEN
            has_more := true;
            EXIT;
        END IF;
        IF entry.xid IS DISTINCT FROM of_xid THEN
            of_xid := entry.xid;
            xid := of_xid;
        END IF;
        IF entry.depth > 1 AND entry.xid <> ALL (nested_xids) THEN
            nested_xids := nested_xids || entry.xid;
        END IF;
        id := entry.id;
        IF entry.at IS DISTINCT FROM made_at THEN
            made_at := entry.at;
            at := to_json(made_at AT TIME ZONE 'UTC') #>> '{}' || '+00:00';
        END IF;
        action := entry.action;
        schema_name := entry.schema_name;
        table_name := entry.table_name;
        data := entry.data;
        old := entry.old;
        row_count := entry.row_count;
        given := given + 1;
        given_bytes := given_bytes + coalesce(octet_length(data), 0) + coalesce(octet_length(old), 0);
        RETURN NEXT;
        FETCH entries INTO entry;
    END LOOP;
    CLOSE entries;
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    INTO id, xid, at, action, schema_name, table_name, data, old, row_count;
    nested := nested_xids;
    snapshot := batch;
    present := pg_current_snapshot();
    SELECT concat_ws(' ', m.epoch, 'changefeed.journal'::regclass::oid) INTO identity FROM changefeed.meta AS m;
    -- After the entries, so that it includes partitions that were truncated meanwhile.
    SELECT x.last_value, i.last_value, t.last_value INTO lost_xid, lost_id, lost_at
    FROM changefeed.lost_xid AS x, changefeed.lost_id AS i, changefeed.lost_at AS t;
    SELECT t.number INTO taken FROM changefeed.what_was_taken() AS t;
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO losses FROM changefeed.losses;
    awake_ms := pg_sequence_last_value('changefeed.awake_until') - date_part('epoch', clock_timestamp()) * 1000;
    IF (awake_ms BETWEEN 0 AND 2000) IS NOT TRUE THEN
        awake_ms := 0;
    END IF;
    RETURN NEXT;
END
$function$;

-- The entries of one transaction with ids between two, lowest first. Without a sort: sorting all entries of a large transaction
-- for each piece of it would take time that grows with the square of its size. PostgreSQL would choose a sort if there are no
-- statistics, as right after a large write.
-- `command` is the number of the transaction's command that wrote the entry.
CREATE FUNCTION changefeed.entries_of(of_xid xid8, behind bigint, before bigint, most integer)
RETURNS TABLE (
    id bigint, xid xid8, at timestamptz, command bigint, depth smallint, action "char", schema_name text, table_name text,
    data json, old json
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $function$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT j.id, j.xid, j.at, j.cmin::text::bigint, j.depth, j.action, j.schema_name, j.table_name, j.data, j.old
    FROM changefeed.journal AS j
    WHERE j.xid = of_xid AND j.id > behind AND j.id < before ORDER BY j.xid, j.id LIMIT most;
END
$function$;

-- The last entry of each transaction of a batch: of the `most` newest ones, and of those that were running when the previous
-- batch was read. The index leads from one to the next, however many entries they have.
CREATE OR REPLACE FUNCTION changefeed.last_entries(previous pg_snapshot, batch pg_snapshot, most integer)
RETURNS TABLE (id bigint, xid text, at text) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan SET jit = off AS $function$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE newer (id, xid, at) AS (
        (
            SELECT j.id, j.xid, j.at FROM changefeed.journal AS j
            WHERE j.xid >= pg_snapshot_xmax(previous) AND j.xid < pg_snapshot_xmax(batch) ORDER BY j.xid DESC, j.id DESC LIMIT 1
        )
        UNION ALL
        SELECT o.id, o.xid, o.at FROM newer AS n CROSS JOIN LATERAL (
            SELECT j.id, j.xid, j.at FROM changefeed.journal AS j
            WHERE j.xid >= pg_snapshot_xmax(previous) AND j.xid < n.xid ORDER BY j.xid DESC, j.id DESC LIMIT 1
        ) AS o
    ), found (id, xid, at) AS (
        (SELECT n.id, n.xid, n.at FROM newer AS n WHERE pg_visible_in_snapshot(n.xid, batch) LIMIT most)
        UNION ALL
        SELECT l.id, l.xid, l.at FROM pg_snapshot_xip(previous) AS r (xid) CROSS JOIN LATERAL (
            SELECT j.id, j.xid, j.at FROM changefeed.journal AS j WHERE j.xid = r.xid ORDER BY j.id DESC LIMIT 1
        ) AS l WHERE pg_visible_in_snapshot(l.xid, batch)
    )
    SELECT f.id, f.xid::text, to_json(f.at AT TIME ZONE 'UTC') #>> '{}' || '+00:00' FROM found AS f;
END
$function$;

-- Which of these transactions have entries that may have to be put in order. It reads no rows' contents.
CREATE OR REPLACE FUNCTION changefeed.mixed(xids xid8[])
RETURNS SETOF xid8 LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $function$
BEGIN
    RETURN QUERY
    SELECT DISTINCT m.xid
    FROM (
        SELECT j.xid FROM changefeed.journal AS j WHERE j.xid = ANY (xids)
        GROUP BY j.xid, j.schema_name, j.table_name
        HAVING bool_or(j.depth > 1) OR (
            bool_or(j.action IN ('D', 'U')) AND bool_or(j.action IN ('I', 'U'))
            AND (min(j.at) < max(j.at) OR min(j.action::text) < max(j.action::text))
        )
    ) AS m;
END
$function$;

-- A key's value as text, the same for all equal values, for types whose equal values may have different texts.
CREATE OR REPLACE FUNCTION changefeed.key_text(value json, type text)
RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN CASE
        WHEN type = 'citext' THEN lower(value #>> '{}')
        WHEN type = 'bpchar' THEN rtrim(value #>> '{}')
        WHEN json_typeof(value) = 'number' THEN trim_scale((value #>> '{}')::numeric)::text  -- 1.0 and 1.00, 0 and -0
        ELSE value::text
    END;
END
$function$;

-- Whether PostgreSQL can parse a value, which it need not have done to make it: json_build_array() nests without a limit.
CREATE OR REPLACE FUNCTION changefeed.can_be_parsed(value json)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM value -> '';
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$function$;

DROP FUNCTION IF EXISTS changefeed.settled_snapshot(pg_snapshot);  -- version 4's
DO $grant$
BEGIN
    IF current_setting('changefeed.readers') <> '' THEN
        EXECUTE 'GRANT EXECUTE ON FUNCTION changefeed.read, changefeed.entries_of, changefeed.mixed, changefeed.key_text, changefeed.can_be_parsed TO ' || current_setting('changefeed.readers');
    END IF;
END
$grant$;
