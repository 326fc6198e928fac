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
\ir record.sql
\ir truncate.sql
\ir watch.sql
\ir read.sql
\ir retention.sql

-- What is for users; psql shows it with \df+ changefeed.*
COMMENT ON FUNCTION changefeed.watch(regclass, text[], bigint, boolean) IS 'journal a table''s changes from the next statement on';
COMMENT ON FUNCTION changefeed.unwatch(regclass) IS 'end that; what was journaled stays';
COMMENT ON FUNCTION changefeed.status() IS 'the watched tables, their options, and whether their triggers are as they ought to be';
COMMENT ON FUNCTION changefeed.refresh() IS 'bring partitions that came since up to date';
COMMENT ON FUNCTION changefeed.retain(interval, bigint) IS 'empty the partitions of the journal that are past either';
COMMENT ON FUNCTION changefeed.journal_status() IS 'the journal''s size in bytes, oldest and newest entry, losses';
COMMENT ON FUNCTION changefeed.read(pg_snapshot, pg_snapshot, bigint, integer, bigint) IS 'the changes after a place; see sql/read.sql';
COMMIT;
