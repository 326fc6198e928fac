-- Retention: the journal is a ring of eight partitions. The oldest is truncated as a whole, never row by row. A partition that
-- is being written to is left for the next time: no writer ever waits for this, and no reader longer than the lock_timeout.

-- Begins the next partition when the present one has reached its share of `keep_for` or `keep_bytes`, and empties those
-- beyond either limit. Returns the numbers of the partitions it emptied. The server calls it again and again; without a server, cron.
CREATE OR REPLACE FUNCTION changefeed.retain(keep_for interval, keep_bytes bigint)
RETURNS SETOF integer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET lock_timeout = '100ms' AS $function$
DECLARE
    partitions constant integer := 8;
    written integer;
    following integer;
    candidate integer;
    kept_bytes bigint;
    is_full boolean;
    in_use integer;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'retention must see what others have committed meanwhile'
            USING ERRCODE = 'active_sql_transaction', HINT = 'Call it in a transaction of isolation level READ COMMITTED.';
    END IF;
    -- One at a time: if another server does this, there is nothing to do. The lock needs a privilege on the journal; any role
    -- could hold an advisory one. If the journal is far above its limit, the holder does not apply retention, but prevents it.
    BEGIN
        LOCK TABLE ONLY changefeed.journal IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        IF changefeed.journal_bytes() > 2 * keep_bytes THEN
            RAISE EXCEPTION 'retention cannot run: another session holds a lock on changefeed.journal'
                USING ERRCODE = 'lock_not_available', HINT = 'pg_locks says who.';
        END IF;
        RETURN;
    END;
    IF changefeed.begin_anew_if_restored() THEN
        RETURN;
    END IF;
    SELECT last_value INTO written FROM changefeed.slot;

    -- The partitions that are not being written, oldest first.
    kept_bytes := changefeed.journal_bytes();
    FOR distance IN 1..partitions - 1 LOOP
        candidate := (written + distance) % partitions;
        CONTINUE WHEN NOT changefeed.has_entries(candidate);
        EXIT WHEN kept_bytes <= keep_bytes AND changefeed.newest_entry(candidate) >= clock_timestamp() - keep_for;
        kept_bytes := kept_bytes - pg_total_relation_size(format('changefeed.journal_%s', candidate)::regclass);
        IF changefeed.empty_partition(candidate) THEN
            RETURN NEXT candidate;
        ELSE
            in_use := candidate;
        END IF;
    END LOOP;
    IF in_use IS NOT NULL AND changefeed.journal_bytes() > 2 * keep_bytes THEN
        RAISE WARNING 'changefeed: the journal grows: another session uses changefeed.journal_%', in_use
            USING HINT = 'An old transaction, a dump or a reader of the journal holds it; pg_locks says who.';
    END IF;

    following := (written + 1) % partitions;
    is_full := changefeed.has_entries(written) AND (
        changefeed.oldest_entry(written) < clock_timestamp() - keep_for / (partitions - 1)
        OR pg_total_relation_size(format('changefeed.journal_%s', written)::regclass) > keep_bytes / partitions
    );
    IF is_full THEN
        IF changefeed.has_entries(following) THEN
            IF NOT changefeed.empty_partition(following) THEN
                RETURN;
            END IF;
            RETURN NEXT following;
        END IF;
        PERFORM setval('changefeed.slot', following);
        PERFORM changefeed.note_rotation(written);
    END IF;
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.journal_bytes()
RETURNS bigint LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT sum(pg_total_relation_size(format('changefeed.journal_%s', slot)::regclass))::bigint
    FROM generate_series(0, 7) AS slot
$function$;

CREATE OR REPLACE FUNCTION changefeed.has_entries(slot integer)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    answer boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM changefeed.journal_%s)', slot) INTO answer;
    RETURN answer;
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.oldest_entry(slot integer)
RETURNS timestamptz LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    answer timestamptz;
BEGIN
    EXECUTE format('SELECT at FROM changefeed.journal_%s ORDER BY id LIMIT 1', slot) INTO answer;
    RETURN answer;
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.newest_entry(slot integer)
RETURNS timestamptz LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    answer timestamptz;
BEGIN
    EXECUTE format('SELECT at FROM changefeed.journal_%s ORDER BY id DESC LIMIT 1', slot) INTO answer;
    RETURN answer;
END
$function$;

-- The next two functions write as the schema's owner, so that a caller of retain() needs no right on their tables.
CREATE OR REPLACE FUNCTION changefeed.note_rotation(slot integer)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
BEGIN
    IF to_regclass(format('changefeed.journal_%s', slot)) IS NULL THEN
        RAISE EXCEPTION 'the journal has no partition %', slot USING ERRCODE = 'undefined_table';
    END IF;
    INSERT INTO changefeed.rotated AS r (slot, snapshot) VALUES (note_rotation.slot, pg_current_snapshot())
    ON CONFLICT ON CONSTRAINT rotated_pkey DO UPDATE SET snapshot = excluded.snapshot;
END
$function$;

-- Notes what is needed, once a partition has been emptied, to decide whether a client has read all of it: the last id of each of
-- the newest 1,000 deleted transactions, and of those that were still running when the next partition was begun. An older
-- transaction that had ended by then was missed only by clients that have read nothing since long before.
CREATE OR REPLACE FUNCTION changefeed.note_taken(slot integer)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET enable_seqscan = off
SET jit = off AS $function$
DECLARE
    newest constant integer := 1000;
    before changefeed.taken;
    ended pg_snapshot;
    running bigint[];
    known_from bigint;  -- from this transaction on, all are known
    xids bigint[];
    ids bigint[];
BEGIN
    SELECT t.* INTO before FROM changefeed.taken AS t JOIN changefeed.meta AS m ON m.epoch = t.epoch;
    IF before.number IS NULL THEN
        SELECT true, m.epoch, coalesce((SELECT t.number FROM changefeed.taken AS t), 0), '1:1:', '{}', '{}' INTO before FROM changefeed.meta AS m;
    END IF;
    SELECT r.snapshot INTO ended FROM changefeed.rotated AS r WHERE r.slot = note_taken.slot;
    ended := coalesce(ended, pg_current_snapshot());
    running := ARRAY(
        SELECT r.xid
        FROM (
            SELECT x::text::bigint FROM pg_snapshot_xip(ended) AS x UNION SELECT x::text::bigint FROM pg_snapshot_xip(before.snapshot) AS x
        ) AS r (xid)
        WHERE NOT pg_visible_in_snapshot(r.xid::text::xid8, ended) AND NOT pg_visible_in_snapshot(r.xid::text::xid8, before.snapshot)
    );
    EXECUTE format(
        'WITH RECURSIVE newest (xid, id) AS ('
        '    (SELECT j.xid, j.id FROM changefeed.journal_%1$s AS j ORDER BY j.xid DESC, j.id DESC LIMIT 1)'
        '    UNION ALL'
        '    SELECT o.xid, o.id FROM newest AS n CROSS JOIN LATERAL ('
        '        SELECT j.xid, j.id FROM changefeed.journal_%1$s AS j WHERE j.xid < n.xid ORDER BY j.xid DESC, j.id DESC LIMIT 1'
        '    ) AS o'
        '), of_each (xid, id) AS ('
        '    (SELECT n.xid::text::bigint, n.id FROM newest AS n LIMIT $1)'
        '    UNION ALL'
        '    SELECT r.xid, l.id FROM unnest($2) AS r (xid) CROSS JOIN LATERAL ('
        '        SELECT j.id FROM changefeed.journal_%1$s AS j WHERE j.xid = r.xid::text::xid8 ORDER BY j.id DESC LIMIT 1'
        '    ) AS l'
        '    UNION ALL'
        '    SELECT * FROM unnest($3, $4)'
        ')'
        'SELECT array_agg(e.xid ORDER BY e.xid DESC), array_agg(e.id ORDER BY e.xid DESC)'
        'FROM (SELECT o.xid, max(o.id) AS id FROM of_each AS o GROUP BY o.xid) AS e', slot
    ) INTO xids, ids USING newest, running, before.xids, before.ids;
    known_from := greatest(pg_snapshot_xmax(before.snapshot)::text::bigint, xids[newest]);
    INSERT INTO changefeed.taken AS t (epoch, number, snapshot, xids, ids)
    SELECT before.epoch, before.number + 1, changefeed.snapshot_below(known_from, running),
           coalesce(array_agg(e.xid ORDER BY e.xid DESC), '{}'), coalesce(array_agg(e.id ORDER BY e.xid DESC), '{}')
    FROM unnest(xids, ids) AS e (xid, id) WHERE e.xid >= known_from OR e.xid = ANY (running)
    ON CONFLICT ON CONSTRAINT taken_pkey DO UPDATE
    SET epoch = excluded.epoch, number = excluded.number, snapshot = excluded.snapshot, xids = excluded.xids, ids = excluded.ids;
END
$function$;

-- What note_taken() has noted, at present and not as of the caller's snapshot, because a reader finds a partition empty even if it
-- was emptied since. So this is VOLATILE. It runs as the schema's owner: a reader of the journal needs no right on the table.
CREATE OR REPLACE FUNCTION changefeed.what_was_taken()
RETURNS TABLE (number bigint, snapshot pg_snapshot, xids bigint[], ids bigint[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN QUERY SELECT t.number, t.snapshot, t.xids, t.ids FROM changefeed.taken AS t JOIN changefeed.meta AS m ON m.epoch = t.epoch;
END
$function$;

-- Truncates one partition, and notes its newest transaction and id, so that older cursors get a gap. Returns false if it is
-- still being written to.
CREATE OR REPLACE FUNCTION changefeed.empty_partition(slot integer)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
BEGIN
    EXECUTE format('LOCK TABLE changefeed.journal_%s IN ACCESS EXCLUSIVE MODE', slot);
    PERFORM changefeed.note_taken(slot);
    -- Not max(xid): PostgreSQL 14 has no max() for xid8.
    EXECUTE format(
        'SELECT setval(''changefeed.lost_at'', (extract(epoch FROM e.at) * 1000000)::bigint),'
        '       setval(''changefeed.lost_xid'', e.xid)'
        'FROM (SELECT j.xid::text::bigint AS xid, j.at FROM changefeed.journal_%s AS j ORDER BY j.xid DESC, j.id DESC LIMIT 1) AS e,'
        '     changefeed.lost_xid AS x WHERE e.xid >= x.last_value', slot
    );
    EXECUTE format(
        'SELECT setval(''changefeed.lost_id'', greatest(i.last_value, (SELECT max(j.id) FROM changefeed.journal_%s AS j)))'
        'FROM changefeed.lost_id AS i', slot
    );
    EXECUTE format('TRUNCATE changefeed.journal_%s', slot);
    IF to_regclass(format('changefeed.journal_%s_losses', slot)) IS NULL
        AND pg_has_role((SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'changefeed.journal'::regclass), 'USAGE')
    THEN
        PERFORM changefeed.complete_partition(slot);
    END IF;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$function$;

-- The journal's state: `entries` is the planner's estimate, sizes and times are exact. `losses` counts the entries for
-- statements that could not be recorded, and all statements for which not even such an entry could be written.
CREATE OR REPLACE FUNCTION changefeed.journal_status()
RETURNS TABLE (bytes bigint, oldest timestamptz, newest timestamptz, entries bigint, losses bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT
        changefeed.journal_bytes(),
        min(changefeed.oldest_entry(slot)),
        max(changefeed.newest_entry(slot)),
        (SELECT sum(greatest(c.reltuples, 0)) FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid
         WHERE i.inhparent = 'changefeed.journal'::regclass)::bigint,
        (SELECT count(*) FROM changefeed.journal WHERE action = 'L' AND data IS NULL)
            + (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM changefeed.losses)
    FROM generate_series(0, 7) AS slot
$function$;
