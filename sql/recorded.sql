-- Remembers what recorded each watched table at the last look, and writes changes that were missed since into the journal.
--
-- No trigger fires if triggers are disabled, another table takes a name, or a partition is detached. So a server looks whenever the
-- schema has changed, and compares. Its findings become entries of action L: they have a place, reach each client once, and
-- outlive the server. The result of the last look is kept here, so that only one of several servers writes the entry, and a
-- later look finds what was done while no server ran.
--
-- A look compares rows of the catalog. PostgreSQL rewrites a trigger's row when the trigger is disabled, enabled or renamed, and that
-- of a table's row type when the table gets another name, schema or owner. Adding a column, ANALYZE and VACUUM rewrite neither.
-- So a row that was rewritten, but is the same as before, was different in between.
CREATE TABLE IF NOT EXISTS changefeed.recorded (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    journal text NOT NULL,         -- which one: of a journal that begins anew nobody has a place to be told by
    seen_at timestamptz NOT NULL,
    state jsonb,                   -- null for one that is not watched any more
    empty oid[],                   -- those of its members that never had a row before `snapshot`
    snapshot pg_snapshot,
    PRIMARY KEY (schema_name, table_name)
);

-- The tables, and the partitions of `root`, that had no rows when their triggers were made: of them nothing is missing. Written
-- in that very transaction, whose locks keep writers away; a look comes later, when there may be rows that are recorded.
CREATE TABLE IF NOT EXISTS changefeed.began_empty (
    root oid NOT NULL,
    member oid NOT NULL,
    entered text NOT NULL,  -- which time it is that it is a partition, as below
    PRIMARY KEY (root, member)
);

-- That our triggers of a member were written anew by us, and what was last seen of them is what they were before: by
-- CREATE OR REPLACE, under a lock, so nothing was missed. `before` and `after` are digests, as in recorded_now().
CREATE TABLE IF NOT EXISTS changefeed.remade (
    member oid PRIMARY KEY,
    before text NOT NULL,
    after text NOT NULL
);

-- Whose last_value is another whenever a partition began empty: one that is gone before anybody has looked leaves nothing else.
CREATE SEQUENCE IF NOT EXISTS changefeed.began;

-- Columns that servers took for another type for a moment, and filtered by them wrongly: for who comes back after a restart, or to
-- another process. One row for each process that told its clients; `seen` is what a snapshot saw when it did.
CREATE TABLE IF NOT EXISTS changefeed.retyped (
    number bigint PRIMARY KEY,
    journal text NOT NULL,
    seen pg_snapshot NOT NULL,
    table_name text NOT NULL,  -- with its schema, as gaps have it
    columns text[] NOT NULL,
    since timestamptz,
    at timestamptz NOT NULL
);

-- Which journal this is, where files were not put back.
CREATE OR REPLACE FUNCTION changefeed.this_journal()
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT concat_ws(' ', m.epoch, c.system_identifier, 'changefeed.journal'::regclass::oid)
    FROM changefeed.meta AS m, pg_control_system() AS c
$function$;

-- As the schema's owner, so that the server's role needs no right to write. The newest 1,001 are kept: of more than 1,000 a
-- server knows that there were more.
CREATE OR REPLACE FUNCTION changefeed.note_retyped(of_table text, of_columns text[], since timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET lock_timeout = '10s' AS $function$
BEGIN
    LOCK TABLE changefeed.retyped IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO changefeed.retyped (number, journal, seen, table_name, columns, since, at)
    SELECT coalesce(max(r.number), 0) + 1, changefeed.this_journal(), pg_current_snapshot(), of_table, of_columns,
           note_retyped.since, clock_timestamp()
    FROM changefeed.retyped AS r;
    DELETE FROM changefeed.retyped AS r WHERE r.number < (SELECT max(m.number) FROM changefeed.retyped AS m) - 1000;
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.retyped_after(after bigint)
RETURNS TABLE (number bigint, seen pg_snapshot, table_name text, columns text[], since timestamptz, at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
    SELECT r.number, r.seen, r.table_name, r.columns, r.since, r.at FROM changefeed.retyped AS r
    WHERE r.number > after AND r.journal = changefeed.this_journal() ORDER BY r.number
$function$;

-- The members of a table that no trigger of ours records as such: not yet, or under another root or none.
CREATE OR REPLACE FUNCTION changefeed.unrecorded(target oid)
RETURNS oid[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT coalesce(array_agg(c.oid), '{}')
    FROM changefeed.members(ARRAY[target]) AS m JOIN pg_class AS c ON c.oid = m.member
    WHERE NOT EXISTS (
        SELECT FROM pg_trigger AS t
        WHERE t.tgrelid = c.oid AND t.tgfoid = ANY (changefeed.recorders())
          AND (position('"root": true'::bytea IN t.tgargs) > 0) = c.relispartition
    )
$function$;

-- Keeps which of these members have no rows. Their triggers were made by this transaction, so nobody writes to them now.
CREATE OR REPLACE FUNCTION changefeed.note_empty(target oid, members oid[])
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    DELETE FROM changefeed.began_empty AS b WHERE b.root = target AND b.member = ANY (members);
    INSERT INTO changefeed.began_empty (root, member, entered)
    SELECT target, c.oid, coalesce((
        SELECT string_agg(i.xmin::text, ' ' ORDER BY a.number DESC)
        FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS a (member, number) JOIN pg_inherits AS i ON i.inhrelid = a.member
    ), '')
    FROM pg_class AS c
    WHERE c.oid = ANY (members) AND (c.relkind = 'p' OR pg_relation_size(c.oid::regclass) = 0);
    IF FOUND THEN
        PERFORM nextval('changefeed.began');
    END IF;
END
$function$;

-- A digest of the rows of pg_trigger that are ours, of each member of a table.
CREATE OR REPLACE FUNCTION changefeed.written_triggers(target oid)
RETURNS TABLE (member oid, written text) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    SELECT t.tgrelid, sum(hash_record_extended(ROW(t.oid, t.xmin), 0))::text
    FROM changefeed.members(ARRAY[target]) AS m
    JOIN pg_trigger AS t ON t.tgrelid = m.member AND t.tgtype::int & 2 = 0
    JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace = 'changefeed'::regnamespace
    GROUP BY t.tgrelid
$function$;

-- Notes that we rewrote triggers of `target`, whose state was `before`, as of written_triggers().
CREATE OR REPLACE FUNCTION changefeed.note_remade(target oid, members oid[], before text[])
RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    INSERT INTO changefeed.remade AS r (member, before, after)
    SELECT b.member, b.written, n.written
    FROM unnest(members, before) AS b (member, written) JOIN changefeed.written_triggers(target) AS n USING (member)
    WHERE b.written <> n.written
    ON CONFLICT (member) DO UPDATE
    SET before = CASE r.after WHEN excluded.before THEN r.before ELSE excluded.before END, after = excluded.after
$function$;

-- Each watched table as it is now. Its members are itself and its partitions, by oid. One is complete whose triggers of ours,
-- after the statement or the row, are for INSERT (4), DELETE (8), UPDATE (16) and TRUNCATE (32). One that was made as a
-- partition, and not attached, entered pg_inherits by the command that made it: 3 steps after its columns. What a partition
-- brings when it is attached is in its own partitions, so these are as attached as it is, and enter whenever it does.
CREATE OR REPLACE FUNCTION changefeed.recorded_now()
RETURNS TABLE (schema_name text, table_name text, state jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
    WITH RECURSIVE ours AS MATERIALIZED (
        SELECT t.tgrelid AS member,
               bit_or(t.tgtype::int) FILTER (WHERE t.tgenabled IN ('O', 'A')) & 60 AS recorded,
               sum(hash_record_extended(ROW(t.oid), 0)) FILTER (WHERE t.tgtype::int & 28 > 0) AS triggers,
               sum(hash_record_extended(ROW(t.oid, t.tgname, t.tgtype, t.tgenabled, t.tgfoid, t.tgargs), 0)) AS definition,
               sum(hash_record_extended(ROW(t.oid, t.xmin), 0)) AS written,
               bool_or(t.tgtype::int & 1 > 0) AS is_by_row,
               bool_or(position('"dynamic"'::bytea IN t.tgargs) > 0) AS is_dynamic
        FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid AND p.pronamespace = 'changefeed'::regnamespace
        WHERE t.tgtype::int & 2 = 0
        GROUP BY t.tgrelid
    ), members (root, member, entered, is_attached) AS (
        SELECT c.oid, c.oid, '', false FROM ours AS o JOIN pg_class AS c ON c.oid = o.member WHERE NOT c.relispartition
        UNION ALL
        SELECT m.root, c.oid, concat_ws(' ', nullif(m.entered, ''), i.xmin),
            m.is_attached OR i.xmin <> a.xmin OR i.cmin::text::bigint - a.cmin::text::bigint > 3
        FROM members AS m
        JOIN pg_inherits AS i ON i.inhparent = m.member
        JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p')
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = -6
    )
    SELECT n.nspname, c.relname, jsonb_build_object(
        'oid', c.oid::bigint,
        'is_complete', bool_and(coalesce(o.recorded, 0) = 60),
        'name', hash_record_extended(ROW(y.typname, y.typnamespace, y.typowner, y.typacl::text), 0)::text,
        'name_written', y.xmin::text,
        'is_by_row', bool_or(o.is_by_row) FILTER (WHERE m.member = m.root),
        'is_dynamic', bool_and(coalesce(o.is_dynamic, false)),
        'has_virtual', EXISTS (
            SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped
        ),
        -- For unlogged tables: a crash, which empties them, also resets the statistics.
        'unlogged_since', CASE WHEN bool_or(p.relpersistence = 'u') THEN (
            SELECT extract(epoch FROM b.stats_reset) FROM pg_stat_bgwriter AS b
        ) END,
        'members', jsonb_object_agg(m.member::bigint::text, jsonb_build_object(
            'entered', m.entered, 'is_attached', m.is_attached,
            'triggers', o.triggers::text, 'definition', o.definition::text, 'written', o.written::text
        ))
    )
    FROM members AS m
    JOIN pg_class AS c ON c.oid = m.root
    JOIN pg_class AS p ON p.oid = m.member
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_type AS y ON y.oid = c.reltype
    LEFT JOIN ours AS o ON o.member = m.member
    GROUP BY n.nspname, c.relname, c.oid, y.oid, y.typname, y.typnamespace, y.typowner, y.typacl::text, y.xmin
$function$;

-- Those of the tables that never had a row that others could see: whose file has no page, and is the one that it began with,
-- which neither VACUUM nor ANALYZE came to. None where that cannot be known, as one of them is locked.
CREATE OR REPLACE FUNCTION changefeed.never_written(members oid[])
RETURNS oid[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET lock_timeout = '1s' AS $function$
BEGIN
    RETURN ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.oid = ANY (members) AND (
            c.relkind = 'p'
            OR c.reltuples = -1 AND pg_relation_filenode(c.oid::regclass) = c.oid AND pg_relation_size(c.oid::regclass) = 0
        )
    );
EXCEPTION WHEN lock_not_available THEN
    RETURN '{}';
END
$function$;

-- Whether the journal has, or had, an entry that brings rows to a table and that the snapshot does not see. Of very many
-- entries it may.
CREATE OR REPLACE FUNCTION changefeed.has_brought_rows(of_schema text, of_table text, since pg_snapshot)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $function$
    SELECT (SELECT x.last_value FROM changefeed.lost_xid AS x) >= pg_snapshot_xmin(since)::text::bigint
        OR count(*) = 100000 OR coalesce(bool_or(j.is_it), false)
    FROM (
        SELECT j.schema_name = of_schema AND j.table_name = of_table AND j.action IN ('I', 'U') AS is_it
        FROM changefeed.journal AS j
        WHERE j.xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(j.xid, since) LIMIT 100000
    ) AS j
$function$;

-- Why changes of a table are missing that was watched at both looks; null where none are. `is_over`: what comes from now on
-- is recorded. `gone` are members that came and went since the one before; `was_empty`, `since`: see changefeed.recorded.
CREATE OR REPLACE FUNCTION changefeed.missed(
    of_schema text, of_table text, before jsonb, now jsonb, gone oid[], was_empty oid[], since pg_snapshot,
    OUT why text, OUT is_over boolean
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    name constant text := format('%I.%I', of_schema, of_table);
    was_complete constant boolean := (before ->> 'is_complete')::boolean;
    -- So that what is made has its triggers from its first moment on, if it has them at all.
    is_watched_from_ddl constant boolean := EXISTS (
        SELECT FROM pg_event_trigger AS e
        WHERE e.evtfoid = 'changefeed.refresh_after_ddl()'::regprocedure AND e.evtenabled IN ('O', 'A')
    );
    -- Whether virtual columns are recorded as null: triggers that look up no columns find no values of these in the rows.
    was_null constant boolean := before -> 'has_virtual' = 'true' AND before -> 'is_dynamic' = 'false';
    is_null constant boolean := now -> 'has_virtual' = 'true' AND now -> 'is_dynamic' = 'false';
    has_lost boolean;
    has_gone boolean;  -- one that no look saw
    has_new boolean;
    has_filled boolean;  -- a new one with rows that may not be recorded
    has_attached boolean;
    was_away boolean;
    was_off boolean;
BEGIN
    is_over := true;
    IF before -> 'oid' <> now -> 'oid' THEN
        why := format('%s is another table than before', name);
        RETURN;
    END IF;
    -- What is dropped cannot be looked at any more. It took nothing away if no row had come since it was seen to be empty.
    IF (cardinality(gone) > 0 OR EXISTS (
        SELECT FROM unnest(was_empty) AS e (member) WHERE NOT now -> 'members' ? e.member::bigint::text
    )) AND NOT changefeed.has_brought_rows(of_schema, of_table, since) THEN
        gone := gone || was_empty;
        has_gone := false;
    ELSE
        has_gone := cardinality(gone) > 0;
        gone := '{}';
    END IF;
    SELECT bool_or(n.one IS NULL AND NOT is_void AND member::oid <> ALL (gone)), bool_or(b.one IS NULL), bool_or(b.one IS NULL AND NOT is_void),
           bool_or(b.one IS NULL AND NOT is_void AND (n.one ->> 'is_attached')::boolean),
           bool_or(b.one ->> 'entered' <> n.one ->> 'entered' AND NOT is_void),
           bool_or(b.one IS NOT NULL AND n.one IS NOT NULL AND (
               b.one ->> 'triggers' IS DISTINCT FROM n.one ->> 'triggers'
               OR b.one ->> 'definition' IS NOT DISTINCT FROM n.one ->> 'definition'
                  AND b.one ->> 'written' IS DISTINCT FROM n.one ->> 'written'
                  AND NOT (is_watched_from_ddl AND EXISTS (
                      SELECT FROM changefeed.remade AS r
                      WHERE r.member = n.member::oid AND r.before = b.one ->> 'written' AND r.after = n.one ->> 'written'
                  ))
           ))
    INTO has_lost, has_new, has_filled, has_attached, was_away, was_off
    FROM jsonb_each(before -> 'members') AS b (member, one)
    FULL JOIN jsonb_each(now -> 'members') AS n (member, one) USING (member)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN b.one ->> 'entered' IS DISTINCT FROM n.one ->> 'entered'
            THEN member::oid = ANY (changefeed.never_written(ARRAY[member::oid])) OR EXISTS (
                SELECT FROM changefeed.began_empty AS e
                WHERE e.root = (now ->> 'oid')::oid AND e.member = n.member::oid AND e.entered = n.one ->> 'entered'
            ) END IS TRUE AS is_void
    ) AS v;
    IF NOT (now ->> 'is_complete')::boolean THEN
        IF was_complete OR has_new THEN
            why := format('not all changes of %s are recorded: triggers of %s are missing', name,
                          CASE WHEN has_new THEN 'a new partition' ELSE 'it, or of a partition of it,' END);
            is_over := false;
        END IF;
    ELSIF NOT was_complete THEN
        why := format('all changes of %s are recorded again, and were not for a while', name);
    ELSIF before -> 'name' = now -> 'name' AND before -> 'name_written' <> now -> 'name_written' THEN
        why := format('%s had another name for a moment, and what was written to it meanwhile was told under that', name);
    ELSIF has_lost OR has_gone THEN
        why := format('a partition of %s was detached or dropped: its rows are not in it any more', name);
    ELSIF was_away THEN
        why := format('a partition of %s was detached and attached again, and not recorded meanwhile', name);
    ELSIF before ->> 'unlogged_since' <> now ->> 'unlogged_since' THEN
        why := format('%s, or a partition of it, is unlogged: PostgreSQL may have emptied it after a crash', name);
    ELSIF is_null AND NOT was_null THEN
        why := format('virtual generated columns of %s are told as null', name);
        is_over := false;
    ELSIF NOT is_null AND (
        was_null OR NOT is_watched_from_ddl AND before -> 'is_dynamic' = 'false' AND now -> 'has_virtual' = 'true'
    ) THEN
        why := format('virtual generated columns of %s were told as null for a moment', name);
    ELSIF was_off THEN
        why := format('%s was not watched for a moment', name);
    ELSIF NOT is_watched_from_ddl AND before -> 'is_by_row' = 'false' AND now -> 'is_by_row' = 'true' THEN
        -- Triggers for a statement tell of the rows of children too.
        why := format('what was written by way of %s to a table that inherits from it was told as its own for a moment', name);
    ELSIF has_attached THEN
        why := format('a partition was attached to %s: its rows are in it now', name);
    ELSIF has_filled AND NOT is_watched_from_ddl THEN
        why := format('what was written to a new partition of %s in its first moment is not recorded', name);
    END IF;
END
$function$;

-- Whether any of these tables has rows. Where that cannot be known now, it may.
CREATE OR REPLACE FUNCTION changefeed.may_have_rows(members oid[])
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET lock_timeout = '1s' AS $function$
BEGIN
    RETURN coalesce((SELECT bool_or(pg_relation_size(m.member::regclass) > 0) FROM unnest(members) AS m (member)), false);
EXCEPTION WHEN lock_not_available THEN
    RETURN true;
END
$function$;

-- Writes an entry for each table whose changes were missed since the last look, by any server. `since`: when the
-- caller looked the last time, null for never. A table of the `promised` names (no table: all of the schema) was to be
-- recorded from its first row on. Returns the tables that it wrote of, and why, and those that are recorded in part.
-- As the schema's owner, so that the server's role needs no right to write: it can write nothing but what is found.
CREATE OR REPLACE FUNCTION changefeed.look(since timestamptz, promised_schemas text[], promised_tables text[])
RETURNS TABLE (schema_name text, table_name text, is_complete boolean, is_watched boolean, why text, is_over boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET jit = off
SET lock_timeout = '10s' AS $function$
#variable_conflict use_column
DECLARE
    this_journal text;
    is_first boolean;
    became text;
    gone oid[];
    present pg_snapshot;
    one record;
BEGIN
    -- One at a time, since what one writes the next is to see. By a lock that takes a right on the table: an advisory one
    -- could be held by anybody.
    LOCK TABLE changefeed.recorded IN SHARE ROW EXCLUSIVE MODE;
    this_journal := changefeed.this_journal();
    IF EXISTS (SELECT FROM changefeed.recorded AS r WHERE r.journal <> this_journal) THEN
        DELETE FROM changefeed.recorded AS r WHERE r.journal <> this_journal;
    END IF;
    is_first := since IS NULL AND NOT EXISTS (SELECT FROM changefeed.recorded);
    FOR one IN
        SELECT schema_name, table_name, format('%I.%I', schema_name, table_name) AS name, b.state AS before, n.state AS now,
               b.empty AS was_empty, b.snapshot, b.journal IS NOT NULL AS is_known, greatest(since, b.seen_at) AS seen_at
        FROM changefeed.recorded AS b FULL JOIN changefeed.recorded_now() AS n USING (schema_name, table_name)
        WHERE b.state IS DISTINCT FROM n.state OR NOT (n.state ->> 'is_complete')::boolean OR EXISTS (
            SELECT FROM changefeed.began_empty AS e
            WHERE e.root = (n.state ->> 'oid')::oid AND NOT n.state -> 'members' ? e.member::bigint::text
        )
        ORDER BY schema_name, table_name
    LOOP
        schema_name := one.schema_name;
        table_name := one.table_name;
        is_complete := coalesce((one.now ->> 'is_complete')::boolean, true);
        is_watched := one.now IS NOT NULL;
        why := NULL;
        became := NULL;
        is_over := true;
        present := pg_current_snapshot();
        gone := ARRAY(
            SELECT e.member FROM changefeed.began_empty AS e
            WHERE e.root = (one.now ->> 'oid')::oid AND NOT one.now -> 'members' ? e.member::bigint::text
        );
        IF one.now IS NULL THEN
            SELECT CASE
                WHEN c.oid IS NULL THEN 'dropped'
                WHEN (n.nspname, c.relname) <> (schema_name, table_name) THEN 'renamed'
            END INTO became
            FROM (SELECT) AS _ LEFT JOIN pg_class AS c ON c.oid = (one.before ->> 'oid')::oid
            LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace;
            why := one.name || CASE became
                WHEN 'dropped' THEN ' was dropped'
                WHEN 'renamed' THEN ' has another name now, or is in another schema'  -- which not everybody may know
                ELSE ' is not watched any more'
            END;
            is_over := false;
        ELSIF one.before IS NOT NULL THEN
            SELECT m.why, m.is_over INTO why, is_over
            FROM changefeed.missed(schema_name, table_name, one.before, one.now, gone, one.was_empty, one.snapshot) AS m;
        ELSIF one.is_known THEN
            why := format('%s is watched again, and was not for a while', one.name);
        ELSIF NOT is_first AND EXISTS (
            SELECT FROM unnest(promised_schemas, promised_tables) AS p (schema_name, table_name)
            WHERE p.schema_name = one.schema_name AND coalesce(p.table_name, one.table_name) = one.table_name
        ) AND changefeed.may_have_rows(ARRAY(
            SELECT m.member::oid FROM jsonb_each(one.now -> 'members') AS m (member, state)
            WHERE NOT EXISTS (
                SELECT FROM changefeed.began_empty AS e
                WHERE e.root = (one.now ->> 'oid')::oid AND e.member = m.member::oid AND e.entered = m.state ->> 'entered'
            )
        )) THEN
            why := format('what was written to %s before it was watched is not recorded', one.name);
        END IF;
        IF one.before IS DISTINCT FROM one.now OR gone <> '{}' THEN
            INSERT INTO changefeed.recorded AS r (schema_name, table_name, journal, seen_at, state, empty, snapshot)
            VALUES (
                one.schema_name, one.table_name, this_journal, clock_timestamp(), one.now,
                changefeed.never_written(ARRAY(SELECT m.member::oid FROM jsonb_object_keys(one.now -> 'members') AS m (member))),
                present
            )
            ON CONFLICT ON CONSTRAINT recorded_pkey DO UPDATE
            SET seen_at = excluded.seen_at, state = excluded.state, empty = excluded.empty, snapshot = excluded.snapshot;
            DELETE FROM changefeed.began_empty AS e USING jsonb_each(one.now -> 'members') AS m (member, state)
            WHERE e.root = (one.now ->> 'oid')::oid AND e.member = m.member::oid AND e.entered = m.state ->> 'entered';
            DELETE FROM changefeed.began_empty AS e WHERE e.root = (one.now ->> 'oid')::oid AND e.member = ANY (gone);
            DELETE FROM changefeed.remade AS r USING jsonb_each(one.now -> 'members') AS m (member, state)
            WHERE r.member = m.member::oid AND r.after = m.state ->> 'written';
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
    DELETE FROM changefeed.began_empty AS e WHERE NOT EXISTS (
        SELECT FROM pg_class AS c WHERE c.oid = e.root AND NOT c.relispartition
    );
    DELETE FROM changefeed.remade AS r WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = r.member);
END
$function$;
