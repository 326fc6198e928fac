-- Removes all triggers of the change feed, the journal and all functions. Existing cursors are refused from then on.
\set QUIET on
-- An error ends the script: no later statement may run in a schema of another role.
\set ON_ERROR_STOP on
\ir begin.sql
DO $uninstall$
DECLARE
    -- As in apply_triggers.sql: writers of the watched tables wait no longer than this, and go on between two attempts.
    wait_ms constant integer := (
        SELECT least(8, greatest(setting::integer / 4, 1)) FROM pg_settings WHERE name = 'deadlock_timeout'
    );
    deadline constant timestamptz := clock_timestamp() + interval '10 seconds';
BEGIN
    PERFORM set_config('lock_timeout', wait_ms::text, true);
    LOOP
        BEGIN
            DROP SCHEMA IF EXISTS changefeed, changefeed_secret CASCADE;  -- drops the triggers with their functions
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > deadline THEN
                RAISE EXCEPTION 'a watched table was in use all the time'
                    USING ERRCODE = 'lock_not_available',
                    HINT = 'Nothing was changed. Try again when the transactions that hold it are over.';
            END IF;
        END;
        PERFORM pg_sleep(wait_ms * (4 + 4 * random()) / 1000);
    END LOOP;
END
$uninstall$;
COMMIT;
\set QUIET off
\echo 'uninstalled: no table is watched any more. A server that runs goes on without a journal, and installs nothing'
