-- Begins a transaction of install.sql or uninstall.sql, independent of the session's settings: it uses no objects of others, may
-- write, and sees what another install has made for which it waited.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL exit_on_error = off;
SET LOCAL jit = off;
SET LOCAL client_min_messages = warning;
