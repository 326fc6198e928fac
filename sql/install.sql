-- Installs the schema changefeed, or upgrades it in place; run again it changes nothing. With psql alone:
--
--     psql -f sql/install.sql "$DATABASE_URL"
--     SELECT changefeed.watch('public.orders');
--
-- The server runs the same file when it is told to watch a table. sql/uninstall.sql takes everything away again.

-- Whatever the session's settings are: nothing of what others made is picked up, and the transaction may write and sees what
-- another install, for which it waited, has made.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
\ir guard.sql
\ir journal.sql
\ir hash.sql
\ir values.sql
\ir record.sql
\ir truncate.sql
\ir watch.sql
\ir read.sql
\ir retention.sql

-- What is for users; psql shows it with \df+ changefeed.*
COMMENT ON FUNCTION changefeed.watch(regclass, text[], bigint, boolean, text[]) IS 'journal a table''s changes from the next statement on';
COMMENT ON FUNCTION changefeed.hash(regclass, text, text) IS 'the hash by which a value of a hashed column is known in the feed';
COMMENT ON FUNCTION changefeed.set_secret(bytea) IS 'carry over the secret of hashed columns from another database';
COMMENT ON FUNCTION changefeed.unwatch(regclass) IS 'end that; what was journaled stays';
COMMENT ON FUNCTION changefeed.status() IS 'the watched tables, their options, and whether their triggers are as they ought to be';
COMMENT ON FUNCTION changefeed.refresh() IS 'bring partitions that came since up to date';
COMMENT ON FUNCTION changefeed.retain(interval, bigint) IS 'empty the partitions of the journal that are past either';
COMMENT ON FUNCTION changefeed.journal_status() IS 'the journal''s size in bytes, oldest and newest entry, losses';
COMMENT ON FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint) IS 'the changes after a place; see sql/read.sql';

-- Whoever may put the recording functions on a table of their own may write the journal: an older docs/least-rights.md had that.
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

-- In a transaction of its own, since it locks tables of others.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
SELECT changefeed.refresh();
-- Version 4's, when no trigger calls them any more.
DO $version_4$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = to_regprocedure('changefeed.mark()')) THEN
        DROP FUNCTION IF EXISTS changefeed.mark(), changefeed.put_behind(smallint, integer, bigint, bigint, oid, text);
    END IF;
END
$version_4$;
COMMIT;

-- Version 4's partitions had none; see journal.sql. One that is in use all the time is left until retention empties it.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $replica_identity$
DECLARE
    partition regclass;
BEGIN
    PERFORM set_config('lock_timeout', changefeed.lock_wait_ms()::text, true);
    FOR partition IN
        SELECT c.oid FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'changefeed.journal'::regclass AND c.relreplident <> 'f'
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', partition);
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END LOOP;
END
$replica_identity$;
COMMIT;
