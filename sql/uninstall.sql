-- Takes away every trigger of the change feed, the journal and all functions. Cursors from before are refused later.
BEGIN;
SET LOCAL lock_timeout = '5s';
SET LOCAL client_min_messages = warning;
DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions;
DROP SCHEMA IF EXISTS changefeed CASCADE;  -- the triggers go with their functions
COMMIT;
