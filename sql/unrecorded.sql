-- Remembers what recorded each watched table at the last look, and writes changes that were missed since into the journal.
--
-- No trigger fires if triggers are disabled, another table takes a name, or a partition is detached. So a server looks whenever the
-- schema has changed, and compares. Its findings become entries of action L: they have a place, reach each client once, and
-- outlive the server. The result of the last look is kept here, so that only one of several servers writes the entry, and a
-- later look finds what was done while no server ran.
--
-- A look compares rows of the catalog. PostgreSQL rewrites a trigger's row when the trigger is disabled, enabled or renamed, those
-- of a table's row type and its array type when the table gets another name, schema or owner, and those of its columns when it
-- becomes a partition or a child. Adding a column, ANALYZE and VACUUM rewrite none of these.
-- So a row that was rewritten, but is the same as before, was different in between.
CREATE TABLE IF NOT EXISTS changefeed.recorded (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    journal text NOT NULL,         -- the journal's epoch and table; another one's rows came with a dump
    seen_at timestamptz NOT NULL,
    state jsonb,                   -- null if it is not watched any more, or was watched by an earlier journal
    empty oid[],                   -- those of its members that never had a row before `snapshot`
    snapshot pg_snapshot,
    losses bigint,                 -- what the sequence changefeed.losses had counted by then
    PRIMARY KEY (schema_name, table_name)
);
DO $columns$
BEGIN
    -- The first installations of version 5 did not have them.
    IF NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = 'changefeed.recorded'::regclass AND a.attname = 'losses' AND NOT a.attisdropped
    ) THEN
        ALTER TABLE changefeed.recorded
            ADD COLUMN IF NOT EXISTS empty oid[], ADD COLUMN IF NOT EXISTS snapshot pg_snapshot, ADD COLUMN losses bigint;
        DROP FUNCTION IF EXISTS
            changefeed.has_brought_rows(text, text, pg_snapshot),
            changefeed.missed(text, text, jsonb, jsonb, changefeed.noted[], oid[], pg_snapshot);
    END IF;
END
$columns$;

-- Each watched table as it is now: the states of its members, by oid.
CREATE OR REPLACE FUNCTION changefeed.recorded_now()
RETURNS TABLE (schema_name text, table_name text, state jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    SELECT n.nspname, c.relname, jsonb_build_object(
        'oid', c.oid::bigint,
        'is_complete', bool_and((s.state ->> 'is_complete')::boolean),
        'members', jsonb_object_agg(s.member::bigint::text, s.state)
    )
    FROM changefeed.states(ARRAY(
        SELECT DISTINCT t.tgrelid
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid AND NOT c.relispartition
        JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace = 'changefeed'::regnamespace AND p.proname <> 'request'
        WHERE t.tgtype::int & 2 = 0
    )) AS s
    JOIN pg_class AS c ON c.oid = s.root JOIN pg_namespace AS n ON n.oid = c.relnamespace
    GROUP BY n.nspname, c.relname, c.oid
$function$;

-- How many statements could not be recorded, not even as a loss of their table.
CREATE OR REPLACE FUNCTION changefeed.lost_statements()
RETURNS bigint LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT CASE WHEN l.is_called THEN l.last_value ELSE 0 END FROM changefeed.losses AS l
$function$;

-- Whether rows may have come to a table by what the snapshot does not see: by the journal, which has, or had, an entry that brings
-- some, or a loss of the table, as of a MERGE that moves rows; or by a statement of which the journal has nothing, if there are more
-- of those than `losses`. Of very many entries it may. (What a look found is a loss too, but was followed by a look at the members.)
CREATE OR REPLACE FUNCTION changefeed.may_have_rows(of_schema text, of_table text, since pg_snapshot, losses bigint)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $function$
    SELECT (SELECT x.last_value FROM changefeed.lost_xid AS x) >= pg_snapshot_xmin(since)::text::bigint
        OR changefeed.lost_statements() IS DISTINCT FROM losses
        OR count(*) = 100000 OR coalesce(bool_or(j.is_it), false)
    FROM (
        SELECT j.schema_name = of_schema AND j.table_name = of_table
            AND (j.action IN ('I', 'U') OR j.action = 'L' AND j.data IS NULL) AS is_it
        FROM changefeed.journal AS j
        WHERE j.xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(j.xid, since) LIMIT 100000
    ) AS j
$function$;

-- Why changes are missing of a table that is watched; null where none are. `is_over`: what comes from now on is recorded. `why` is
-- null too, and `is_over`, where a table is locked that would have to be looked at. `last_look` is what that kept, null where none
-- saw it; `notes` are those that came since, in their order.
CREATE OR REPLACE FUNCTION changefeed.missed(
    of_schema text, of_table text, last_look changefeed.recorded, now jsonb, notes changefeed.noted[], OUT why text, OUT is_over boolean
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    name constant text := format('%I.%I', of_schema, of_table);
    root constant text := now ->> 'oid';
    earlier constant jsonb := last_look.state;
    -- What had rows when it was first watched is no gap by that alone.
    first_id constant bigint := CASE WHEN earlier IS NULL THEN notes[1].id ELSE 0 END;
    was_complete constant boolean := CASE WHEN earlier IS NULL THEN notes[1].id IS NOT NULL ELSE (earlier ->> 'is_complete')::boolean END;
    was_null constant boolean := (earlier @? '$.members.*.is_null ? (@ == true)') IS TRUE;
    is_null constant boolean := now @? '$.members.*.is_null ? (@ == true)';
    first_root jsonb;
    last_root constant jsonb := now -> 'members' -> root;
    is_same_file boolean;
    gone_empty oid[];
    unwritten oid[];
    facts record;
BEGIN
    is_over := true;
    IF earlier -> 'oid' <> now -> 'oid' THEN
        why := format('%s is another table than before', name);
        RETURN;
    END IF;
    first_root := coalesce(earlier -> 'members' -> root, (
        SELECT n.after FROM unnest(notes) AS n WHERE n.member = n.root ORDER BY n.id LIMIT 1
    ));
    is_same_file := first_root -> 'files' = last_root -> 'files';
    -- What is dropped cannot be looked at any more. It took nothing away if no row had come since it was seen to be empty.
    gone_empty := ARRAY(
        SELECT e.member
        FROM (
            SELECT unnest(last_look.empty)
            UNION
            SELECT n.member FROM unnest(notes) AS n
            WHERE n.before IS NULL AND NOT n.had_rows AND (earlier -> 'members' ? n.member::text) IS NOT TRUE
        ) AS e (member)
        WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = e.member)
    );
    IF gone_empty <> '{}' AND changefeed.may_have_rows(
        of_schema, of_table, coalesce(last_look.snapshot, notes[1].snapshot), coalesce(last_look.losses, 0)
    ) THEN
        gone_empty := '{}';
    END IF;
    -- From each state to the next that is known. Between `last` and `next` any change may have been made. Where nothing recorded
    -- a member before we made its triggers, `next` is null, and what it held then is noted.
    WITH changed AS (
        SELECT b.member::oid AS member, b.state AS before, n.state AS now
        FROM jsonb_each(earlier -> 'members') AS b (member, state)
        JOIN jsonb_each(now -> 'members') AS n (member, state) USING (member)
        WHERE b.state <> n.state
        UNION
        SELECT m.member::oid, earlier -> 'members' -> m.member, now -> 'members' -> m.member
        FROM (
            SELECT jsonb_object_keys(earlier -> 'members') EXCEPT SELECT jsonb_object_keys(now -> 'members')
            UNION ALL (SELECT jsonb_object_keys(now -> 'members') EXCEPT SELECT jsonb_object_keys(earlier -> 'members'))
            UNION ALL SELECT n.member::text FROM unnest(notes) AS n
        ) AS m (member)
    ), seen AS (
        SELECT c.member, 0 AS id, NULL::jsonb AS next, c.before AS last, false AS is_noted, false AS had_rows, false AS is_written
        FROM changed AS c WHERE c.before IS NOT NULL
        UNION ALL
        SELECT n.member, n.id, n.before, n.after, true, n.had_rows, n.is_written FROM unnest(notes) AS n
        UNION ALL
        SELECT c.member, 9223372036854775807, c.now, NULL, false, false, false FROM changed AS c
    ), steps AS (
        SELECT s.member, s.id, s.next, s.is_noted, s.had_rows, s.is_written,
               lag(s.last) OVER (PARTITION BY s.member ORDER BY s.id) AS last,
               lead(s.next) OVER (PARTITION BY s.member ORDER BY s.id) AS afterwards
        FROM seen AS s
    ), compared AS (
        SELECT s.*, f.have_stayed,
               changefeed.is_rewritten(s.last ->> 'entered', s.next ->> 'entered', f.have_stayed) AS has_moved
        FROM steps AS s CROSS JOIN LATERAL (SELECT s.last -> 'files' = s.next -> 'files') AS f (have_stayed)
    )
    SELECT
        bool_or(last IS NULL AND NOT is_noted AND NOT (next ->> 'is_complete')::boolean) AS has_new_incomplete,
        -- Which of these matter depends on whether they ever had a row.
        coalesce(array_agg(member) FILTER (WHERE last IS NOT NULL AND next IS NULL AND NOT is_noted AND member <> ALL (gone_empty)), '{}') AS lost,
        coalesce(array_agg(member) FILTER (WHERE has_moved), '{}') AS moved,
        coalesce(array_agg(member) FILTER (WHERE last IS NULL AND next IS NOT NULL), '{}') AS came,
        bool_or(last IS NOT NULL AND next IS NULL AND is_written) AS was_away,
        bool_or(last IS NULL AND next IS NULL AND had_rows) AS has_filled,
        bool_or(last IS NULL AND next IS NULL AND had_rows AND (afterwards ->> 'is_attached')::boolean) AS has_attached,
        bool_or(NOT has_moved AND (
            last ->> 'triggers' IS DISTINCT FROM next ->> 'triggers'
            OR last ->> 'is_complete' <> next ->> 'is_complete'
            OR last ->> 'definition' = next ->> 'definition' AND last ->> 'written' <> next ->> 'written'
        )) AS was_off,
        bool_or(
            last -> 'running_since' <> next -> 'running_since' AND 'true' IN (last -> 'is_unlogged', next -> 'is_unlogged')
        ) AS has_crashed,
        bool_or(
            last -> 'is_null' = 'true' AND next -> 'is_null' = 'false'
            OR next -> 'is_null' = 'true' AND is_noted
        ) AS has_been_null,
        bool_or(next -> 'tells_children' = 'true' AND (is_noted OR last -> 'tells_children' = 'false')) AS told_children,
        bool_or(next -> 'misses_parents' = 'true' AND (is_noted OR last -> 'misses_parents' = 'false')) AS missed_parents,
        -- It came and went: a column is what it was, and was written again.
        bool_or((last -> 'is_by_row' = 'true' AND next -> 'is_by_row' = 'true') IS NOT TRUE AND EXISTS (
            SELECT FROM jsonb_each(last -> 'columns') AS b (number, fact) JOIN jsonb_each(next -> 'columns') AS n (number, fact) USING (number)
            WHERE b.fact <> n.fact AND b.fact -> 0 = n.fact -> 0 AND changefeed.is_rewritten(b.fact ->> 1, n.fact ->> 1, have_stayed)
        )) AS had_parents
    INTO facts
    FROM compared WHERE id > first_id;
    unwritten := changefeed.never_written(facts.lost || facts.moved || facts.came);
    IF NOT (now ->> 'is_complete')::boolean THEN
        IF was_complete OR facts.has_new_incomplete THEN
            why := format('not all changes of %s are recorded: triggers of %s are missing', name, CASE
                WHEN facts.has_new_incomplete THEN 'a new partition' ELSE 'it, or of a partition of it,'
            END);
            is_over := false;
        END IF;
    ELSIF NOT was_complete THEN
        why := format('all changes of %s are recorded again, and were not for a while', name);
    ELSIF first_root -> 'name' = last_root -> 'name'
        AND changefeed.is_rewritten(first_root ->> 'type_written', last_root ->> 'type_written', is_same_file)
        AND changefeed.is_rewritten(first_root ->> 'array_type_written', last_root ->> 'array_type_written', is_same_file) THEN
        -- A new owner overwrites all that could tell whether there was another name too.
        why := format(CASE WHEN first_root -> 'owner' = last_root -> 'owner'
            THEN '%s had another name for a moment, and what was written to it meanwhile was reported under that name'
            ELSE '%s has another owner, and may have had another name for a moment, under which its changes were reported'
        END, name);
    ELSIF NOT facts.lost <@ unwritten THEN
        why := format('a partition of %s was detached or dropped: its rows are not in it any more', name);
    ELSIF facts.was_away OR NOT facts.moved <@ unwritten THEN
        why := format('%s, or a partition of it, was not recorded for a while', name);
    ELSIF facts.has_crashed THEN
        why := format('%s, or a partition of it, is unlogged, or was for a while: PostgreSQL may have emptied it after a crash', name);
    ELSIF is_null AND NOT was_null THEN
        why := format('virtual generated columns of %s are reported as null', name);
        is_over := false;
    ELSIF facts.has_been_null AND NOT is_null THEN
        why := format('virtual generated columns of %s were reported as null for a moment', name);
    ELSIF facts.was_off THEN
        why := format('%s was not watched for a moment', name);
    ELSIF facts.missed_parents OR facts.had_parents THEN
        why := format('%s inherited from another table, or was a partition, for a moment: what was written by way of that is not recorded', name);
    ELSIF facts.told_children THEN
        why := format('what was written by way of %s to a table that inherits from it was reported as that table''s own for a moment', name);
    ELSIF facts.has_attached OR EXISTS (
        SELECT FROM unnest(facts.came) AS c (member)
        WHERE c.member <> ALL (unwritten) AND (now -> 'members' -> c.member::text ->> 'is_attached')::boolean
    ) THEN
        why := format('a partition was attached to %s: its rows are in it now', name);
    ELSIF facts.has_filled OR NOT facts.came <@ unwritten THEN
        why := format('what was written to a new partition of %s in its first moment is not recorded', name);
    ELSIF unwritten IS NULL THEN
        is_over := NULL;
    END IF;
END
$function$;

-- Writes an entry for each table of which changes were missed since the last look of any process. `since`: when the
-- caller looked the last time, null for never. A table of the `promised` names (no table: all of the schema) was to be
-- recorded from its first row on. The `known` ones are those that the caller saw watched, perhaps by a journal that was removed
-- since: what is written until they are watched again is missing. Returns the tables that it wrote of, and why, and those that are recorded in part; and those,
-- with is_over null, that are to be looked at again, as it would have had to wait for a lock of another session.
-- As the schema's owner, so that the server's role needs no right to write: it can write nothing but what is found, or known.
CREATE OR REPLACE FUNCTION changefeed.look(
    since timestamptz, promised_schemas text[], promised_tables text[], known_schemas text[] DEFAULT '{}', known_tables text[] DEFAULT '{}'
)
RETURNS TABLE (schema_name text, table_name text, is_complete boolean, is_watched boolean, why text, is_over boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET jit = off
SET lock_timeout = '10s' AS $function$
#variable_conflict use_column
DECLARE
    this_journal text := changefeed.this_journal();
    is_first boolean;
    is_unseen boolean;  -- by any look, while it was watched
    is_partition boolean;
    became text;
    present pg_snapshot;
    lost_statements bigint;
    members oid[];
    one record;
BEGIN
    PERFORM changefeed.check_names(known_schemas), changefeed.check_names(known_tables);
    IF cardinality(known_schemas) <> cardinality(known_tables) OR isfinite(since) IS FALSE THEN
        RAISE EXCEPTION 'there are % schemas of % tables, and the time is %; each table has one, and a time is finite',
            cardinality(known_schemas), cardinality(known_tables), since USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One at a time, since what one writes the next is to see. By a lock that takes a right on the table: an advisory one
    -- could be held by any session.
    LOCK TABLE changefeed.recorded IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM changefeed.recorded AS r WHERE r.journal <> this_journal) THEN
        -- They came with a dump. A first look after the restore finds the triggers there, and no change was missed. A table without
        -- triggers is still being restored: what is written to it until it is watched again is missing.
        DELETE FROM changefeed.recorded AS r
        WHERE r.journal <> this_journal AND since IS NULL
          AND (r.schema_name, r.table_name) IN (SELECT n.schema_name, n.table_name FROM changefeed.recorded_now() AS n);
        UPDATE changefeed.recorded AS r
        SET journal = this_journal, seen_at = coalesce(since, clock_timestamp()), state = NULL, empty = NULL, snapshot = NULL, losses = NULL
        WHERE r.journal <> this_journal;
    END IF;
    IF EXISTS (SELECT FROM changefeed.noted AS n WHERE n.journal <> this_journal) THEN
        DELETE FROM changefeed.noted AS n WHERE n.journal <> this_journal;
    END IF;
    is_first := since IS NULL AND NOT EXISTS (SELECT FROM changefeed.recorded);
    -- By an earlier journal, if this one does not know it. Triggers that are there may be newer than rows that came since, as
    -- pg_restore makes them last: so it is watched again from the look on that finds them.
    IF EXISTS (
        SELECT FROM unnest(known_schemas, known_tables) AS k (schema_name, table_name)
        WHERE NOT EXISTS (SELECT FROM changefeed.recorded AS r WHERE (r.schema_name, r.table_name) = (k.schema_name, k.table_name))
    ) THEN
        INSERT INTO changefeed.recorded (schema_name, table_name, journal, seen_at)
        SELECT k.schema_name, k.table_name, this_journal, coalesce(since, clock_timestamp())
        FROM unnest(known_schemas, known_tables) AS k (schema_name, table_name)
        ON CONFLICT ON CONSTRAINT recorded_pkey DO NOTHING;
    END IF;
    FOR one IN
        -- By one statement, so that the notes are of the same moment as the states.
        WITH compared AS (
            SELECT schema_name, table_name, b.state AS before, n.state AS now, b AS seen,
                   b.journal IS NOT NULL AS is_known,
                   CASE WHEN b.state IS NULL THEN b.seen_at ELSE greatest(since, b.seen_at) END AS seen_at,
                   (coalesce(n.state, b.state) ->> 'oid')::oid AS root
            FROM changefeed.recorded AS b FULL JOIN changefeed.recorded_now() AS n USING (schema_name, table_name)
        ), noted AS (
            SELECT n.root, array_agg(n ORDER BY n.id) AS notes FROM changefeed.noted AS n GROUP BY n.root
        )
        SELECT root, coalesce(c.schema_name, n.notes[1].schema_name) AS schema_name, coalesce(c.table_name, n.notes[1].table_name) AS table_name,
               c.before, c.now, c.seen, c.is_known, coalesce(c.seen_at, since) AS seen_at,
               coalesce(n.notes, '{}') AS notes
        FROM compared AS c FULL JOIN noted AS n USING (root)
        WHERE c.before IS DISTINCT FROM c.now OR NOT (c.now ->> 'is_complete')::boolean OR n.notes IS NOT NULL
        ORDER BY c.before IS NULL AND c.now IS NULL DESC, 2, 3
    LOOP
        schema_name := one.schema_name;
        table_name := one.table_name;
        is_complete := coalesce((one.now ->> 'is_complete')::boolean, true);
        is_watched := one.now IS NOT NULL;
        is_unseen := one.before IS NULL AND NOT is_watched;
        why := NULL;
        became := NULL;
        is_over := true;
        present := pg_current_snapshot();
        lost_statements := changefeed.lost_statements();
        IF one.now IS NULL THEN
            SELECT CASE
                WHEN c.oid IS NULL THEN 'dropped'
                WHEN (n.nspname, c.relname) <> (schema_name, table_name) THEN 'renamed'
            END, c.relispartition INTO became, is_partition
            FROM (SELECT) AS _ LEFT JOIN pg_class AS c ON c.oid = one.root
            LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace;
            -- No client missed one that came and went between two looks, if none of its changes was told.
            IF NOT is_unseen OR NOT EXISTS (SELECT FROM changefeed.recorded AS r WHERE (r.state ->> 'oid')::oid = one.root) AND (
                became IS NULL AND NOT is_partition
                OR changefeed.may_have_rows(schema_name, table_name, one.notes[1].snapshot, 0)
            ) THEN
                why := format('%I.%I', schema_name, table_name) || CASE became
                    WHEN 'dropped' THEN ' was dropped'
                    WHEN 'renamed' THEN ' has another name now, or is in another schema'  -- which not all clients may know
                    ELSE ' is not watched any more'
                END;
                is_over := false;
            END IF;
        ELSIF one.before IS NULL AND one.is_known THEN
            why := format('%I.%I is watched again, and was not for a while', schema_name, table_name);
        ELSIF one.before IS NULL AND NOT is_first AND EXISTS (
            SELECT FROM unnest(promised_schemas, promised_tables) AS p (schema_name, table_name)
            WHERE p.schema_name = one.schema_name AND coalesce(p.table_name, one.table_name) = one.table_name
        ) AND (cardinality(one.notes) = 0 OR EXISTS (SELECT FROM unnest(one.notes) AS n WHERE n.id = one.notes[1].id AND n.had_rows)) THEN
            why := format('what was written to %I.%I before it was watched is not recorded', schema_name, table_name);
        ELSIF one.before IS NOT NULL OR cardinality(one.notes) > 0 THEN
            SELECT m.why, m.is_over INTO why, is_over
            FROM changefeed.missed(schema_name, table_name, one.seen, one.now, one.notes) AS m;
            IF is_over IS NULL THEN
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        IF one.before IS DISTINCT FROM one.now OR cardinality(one.notes) > 0 THEN
            members := ARRAY(SELECT m.member::oid FROM jsonb_object_keys(one.now -> 'members') AS m (member));
            members := ARRAY(SELECT unnest(members) EXCEPT SELECT unnest(changefeed.locked(members)));
            INSERT INTO changefeed.recorded AS r (schema_name, table_name, journal, seen_at, state, empty, snapshot, losses)
            SELECT one.schema_name, one.table_name, this_journal, clock_timestamp(), one.now, changefeed.never_written(members), present, lost_statements
            WHERE NOT is_unseen OR became IS NULL AND why IS NOT NULL
            ON CONFLICT ON CONSTRAINT recorded_pkey DO UPDATE
            SET seen_at = excluded.seen_at, state = excluded.state, empty = excluded.empty, snapshot = excluded.snapshot, losses = excluded.losses
            WHERE NOT is_unseen;
            DELETE FROM changefeed.noted AS n USING unnest(one.notes) AS o WHERE n.id = o.id AND n.member = o.member;
        END IF;
        IF why IS NOT NULL THEN
            INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
            VALUES (
                coalesce(pg_sequence_last_value('changefeed.slot'), 0), clock_timestamp(), 'L', one.schema_name, one.table_name,
                json_build_object('why', why, 'is_over', is_over, 'became', became, 'since', extract(epoch FROM one.seen_at))
            );
            IF pg_notification_queue_usage() < 0.05 THEN
                PERFORM pg_notify('changefeed', '');
            END IF;
        END IF;
        IF why IS NOT NULL OR NOT is_complete THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$function$;

-- Version 4 kept no notes. What it watched was recorded until now: so each of its tables begins with a note that changes nothing, in
-- the transaction that brings these functions, before a look can take the table for one that was not watched.
DO $version_4$
BEGIN
    IF (SELECT c.xmin::text::bigint = pg_current_xact_id()::text::bigint % (1::bigint << 32) FROM pg_class AS c WHERE c.oid = 'changefeed.noted'::regclass) THEN
        INSERT INTO changefeed.noted (id, root, member, schema_name, table_name, before, after, had_rows, is_written)
        SELECT drawn.id, (n.state ->> 'oid')::oid, m.member::oid, n.schema_name, n.table_name, m.state, m.state, false, true
        FROM (SELECT nextval('changefeed.noted_id') AS id) AS drawn, changefeed.recorded_now() AS n,
            jsonb_each(n.state -> 'members') AS m (member, state);
    END IF;
END
$version_4$;
