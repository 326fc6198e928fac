-- Installs the schema changefeed, or upgrades it in place; run again it changes nothing. With psql alone:
--
--     psql -f sql/install.sql "$DATABASE_URL"
--     SELECT changefeed.watch('public.orders');
--
-- The server runs the same file when it is told to watch a table. sql/uninstall.sql takes everything away again.
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('changefeed'));  -- two servers may start at once
SET LOCAL client_min_messages = warning;
\ir journal.sql
\ir hash.sql
\ir record.sql
\ir truncate.sql
\ir watch.sql
\ir read.sql
\ir retention.sql

-- What is for users; psql shows it with \df+ changefeed.*
COMMENT ON FUNCTION changefeed.watch(regclass, text[], bigint, boolean, text[]) IS 'journal a table''s changes from the next statement on';
COMMENT ON FUNCTION changefeed.hash(regclass, text, text) IS 'the hash by which a value of a hashed column is known in the feed';
COMMENT ON FUNCTION changefeed.unwatch(regclass) IS 'end that; what was journaled stays';
COMMENT ON FUNCTION changefeed.status() IS 'the watched tables, their options, and whether their triggers are as they ought to be';
COMMENT ON FUNCTION changefeed.refresh() IS 'bring partitions that came since up to date';
COMMENT ON FUNCTION changefeed.retain(interval, bigint) IS 'empty the partitions of the journal that are past either';
COMMENT ON FUNCTION changefeed.journal_status() IS 'the journal''s size in bytes, oldest and newest entry, losses';
COMMENT ON FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint) IS 'the changes after a place; see sql/read.sql';

-- What a newer version brought belongs to whom the rest does, also where somebody else, such as a superuser, ran this.
DO $owner$
DECLARE
    owner constant regrole := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'changefeed.journal'::regclass);
    foreign_one regprocedure;
BEGIN
    FOR foreign_one IN
        SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'changefeed'::regnamespace AND p.proowner <> owner
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', foreign_one, owner);
    END LOOP;
    IF (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'changefeed.secret'::regclass) <> owner THEN
        EXECUTE format('ALTER TABLE changefeed.secret OWNER TO %s', owner);
    END IF;
END
$owner$;
COMMIT;
