-- Installs the schema changefeed, or upgrades it in place. Running it again changes nothing. With psql alone:
--
--     psql -f sql/install.sql "$DATABASE_URL"
--     SELECT changefeed.watch('public.orders');
--
-- The server runs the same file when it is to watch a table. sql/uninstall.sql removes everything again.

\set QUIET on
-- An error ends the script: no later statement may run in a schema of another role.
\set ON_ERROR_STOP on
\ir begin.sql
\ir guard.sql
\ir legible.sql
\ir journal.sql
\ir hash.sql
\ir values.sql
\ir record.sql
\ir truncate.sql
\ir watched.sql
\ir trigger_notes.sql
\ir wanted_triggers.sql
\ir apply_triggers.sql
\ir watch.sql
\ir refresh.sql
\ir read.sql
\ir cursor.sql
\ir rows.sql
\ir unrecorded.sql
\ir type_changes.sql
\ir retention.sql

-- The functions for users; psql shows these comments with \df+ changefeed.*
COMMENT ON FUNCTION changefeed.watch(regclass, text[], bigint, boolean, text[]) IS 'record a table''s changes from the next statement on';
COMMENT ON FUNCTION changefeed.hash(regclass, text, text) IS 'the hash that the feed shows for a value of a hashed column';
COMMENT ON FUNCTION changefeed.set_secret(bytea) IS 'carry over the secret of hashed columns from another database';
COMMENT ON FUNCTION changefeed.unwatch(regclass) IS 'stop recording a table; recorded changes stay';
COMMENT ON FUNCTION changefeed.status() IS 'the watched tables, their options, and whether their triggers are complete';
COMMENT ON FUNCTION changefeed.refresh() IS 'watch new partitions of watched tables';
COMMENT ON FUNCTION changefeed.cursor() IS 'the place of this transaction in the feed: the changes after the rows that it reads';
COMMENT ON FUNCTION changefeed.rows_source(oid, text[]) IS 'what the server reads of a table for its rows; see sql/rows.sql';
COMMENT ON FUNCTION changefeed.retain(interval, bigint) IS 'empty the journal''s partitions beyond an age or size';
COMMENT ON FUNCTION changefeed.journal_status() IS 'the journal''s size in bytes, oldest and newest entry, losses';
COMMENT ON FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint) IS 'the changes after a place in the feed; see sql/read.sql';

-- No function is granted to PUBLIC. Before version 5, those that only read were: roles that may read the journal keep them.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA changefeed FROM PUBLIC;
DO $readers$
DECLARE
    reader regrole;
BEGIN
    FOR reader IN
        SELECT a.grantee FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname = 'read' AND a.grantee <> p.proowner
    LOOP
        EXECUTE format($grant$
            GRANT EXECUTE ON FUNCTION
                changefeed.what_was_taken(), changefeed.last_entries(pg_snapshot, pg_snapshot, integer),
                changefeed.look, changefeed.note_retyped(text, text[], timestamptz),
                changefeed.retyped_after(bigint), changefeed.status(), changefeed.journal_status(), changefeed.journal_bytes(),
                changefeed.has_entries(integer), changefeed.oldest_entry(integer), changefeed.newest_entry(integer),
                changefeed.members(oid), changefeed.members(oid[]), changefeed.recorders(), changefeed.argument(bytea),
                changefeed.watched(oid[]), changefeed.wanted_triggers(oid[], jsonb[]),
                changefeed.has_foreign_partition(oid), changefeed.repairs(oid[], jsonb[]), changefeed.left_behind(oid[]),
                changefeed.check_target(regclass), changefeed.shown(text), changefeed.warn_of_limits(regclass), changefeed.check_expressions(oid, text[]),
                changefeed.check_triggers(oid), changefeed.name_now(oid), changefeed.lock_wait_ms()
            TO %s
        $grant$, reader);
    END LOOP;
    FOR reader IN
        SELECT a.grantee FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proname = 'retain' AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION changefeed.note_rotation, changefeed.note_taken TO %s', reader);
    END LOOP;
END
$readers$;

-- A role that may use the recording functions in triggers could write anything into the journal; an older docs/least-rights.md
-- granted that.
DO $revoke$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT p.oid::regprocedure AS function, a.grantee
        FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'changefeed'::regnamespace AND a.grantee <> p.proowner
          AND p.prorettype = 'trigger'::regtype AND p.proname <> 'request'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', granted.function,
            CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END);
    END LOOP;
END
$revoke$;
COMMIT;

-- In a separate transaction, since it locks tables of others.
\ir begin.sql
DO $refresh$ BEGIN PERFORM changefeed.refresh(); END $refresh$;
-- Functions of version 4, once no trigger calls them any more: before, a statement may run that began with its functions.
DO $version_4$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = to_regprocedure('changefeed.mark()')) THEN
        DROP FUNCTION IF EXISTS
            changefeed.mark(), changefeed.put_behind(smallint, integer, bigint, bigint, oid, text),
            changefeed.untrusted_value(text, oid), changefeed.safe_type(oid);
    END IF;
END
$version_4$;
COMMIT;

-- Version 4's secret. Running statements still read it here, and a writer of a hashed column locks it until its transaction ends.
\ir begin.sql
DO $secret$
DECLARE
    deadline constant timestamptz := clock_timestamp() + interval '10 seconds';
BEGIN
    WHILE to_regclass('changefeed.secret') IS NOT NULL LOOP
        BEGIN
            PERFORM set_config('lock_timeout', changefeed.lock_wait_ms()::text, true);
            DROP TABLE changefeed.secret;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > deadline THEN
                RAISE WARNING 'changefeed.secret of version 4 is in use, and was not dropped'
                    USING HINT = 'Run sql/install.sql again when the transactions that lock it are over; pg_locks shows them.';
                EXIT;
            END IF;
            PERFORM pg_sleep(0.05);
        END;
    END LOOP;
END
$secret$;
COMMIT;

-- The journal's partitions; see complete_partition(). One that is in use stays as it is until retention empties it.
\ir begin.sql
DO $partitions$
DECLARE
    incomplete record;
BEGIN
    PERFORM set_config('lock_timeout', changefeed.lock_wait_ms()::text, true);
    FOR incomplete IN
        SELECT slot, c.oid::regclass AS partition
        FROM generate_series(0, 7) AS slot JOIN pg_class AS c ON c.oid = to_regclass(format('changefeed.journal_%s', slot))
        WHERE c.relreplident <> 'f'
           OR to_regclass(format('changefeed.journal_%s_losses', slot)) IS NULL AND NOT changefeed.has_entries(slot)
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', incomplete.partition);
            IF changefeed.has_entries(incomplete.slot) THEN
                EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', incomplete.partition);
            ELSE
                PERFORM changefeed.complete_partition(incomplete.slot);
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END LOOP;
END
$partitions$;
COMMIT;
\set QUIET off
\echo 'installed, schema version 5; next: SELECT changefeed.watch(''public.orders'');'
