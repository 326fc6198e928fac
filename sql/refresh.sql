-- Brings the triggers of watched tables up to date. The server calls it regularly, and an event trigger after DDL.

-- Brings the triggers of watched tables up to date, for new partitions and children, or a newer version of these files. Returns the
-- tables that needed it. If one cannot be changed now, the others are all the same. Writers of changed tables wait until it ends, so
-- it continues only for a moment then; the rest is for the next call.
CREATE OR REPLACE FUNCTION changefeed.refresh_tables(targets oid[])
RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET exit_on_error = off AS $function$
DECLARE
    patience_ms double precision := 10 * changefeed.lock_wait_ms();
    started_at timestamptz;
    changing_since timestamptz;
    tended record;
BEGIN
    FOR tended IN
        WITH watched AS (
            SELECT * FROM changefeed.watched(targets)
        ), roots AS (
            SELECT array_agg(w.target) AS targets, array_agg(w.options) AS options FROM watched AS w WHERE w.options IS NOT NULL
        )
        SELECT w.target, w.options, w.options IS NULL AS is_unreadable FROM watched AS w
        WHERE w.options IS NULL
           OR w.target IN (SELECT r.root FROM roots, changefeed.repairs(roots.targets, roots.options) AS r)
        UNION ALL
        SELECT l.target, NULL, false FROM changefeed.left_behind(targets) AS l (target)
    LOOP
        IF clock_timestamp() > changing_since + 3 * changefeed.lock_wait_ms() * interval '1 millisecond' THEN
            RAISE NOTICE 'changefeed: not all tables were checked; call changefeed.refresh() again';
            RETURN;
        END IF;
        started_at := clock_timestamp();
        BEGIN
            IF tended.is_unreadable THEN
                PERFORM changefeed.warn(format(
                    'the options of %s cannot be read; call changefeed.watch for it again', tended.target::regclass
                ));
            ELSIF changefeed.try_to_apply(
                tended.target, tended.options,
                CASE WHEN changing_since IS NULL THEN greatest(least(patience_ms, changefeed.lock_wait_ms()), 1) ELSE 1 END::integer
            ) THEN
                changing_since := coalesce(changing_since, started_at);
                RETURN NEXT tended.target::regclass::text;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            patience_ms := patience_ms - extract(epoch FROM clock_timestamp() - started_at) * 1000;
            PERFORM changefeed.warn(format(
                'the triggers of %s could not be changed: it, or a partition of it, is in use', tended.target::regclass
            ));
        WHEN OTHERS THEN
            PERFORM changefeed.warn(format('the triggers of %s could not be changed: %s', tended.target::regclass, SQLERRM));
        END;
    END LOOP;
END
$function$;

-- The same, run as the schema's owner, for a server that may not call the recording functions.
CREATE OR REPLACE FUNCTION changefeed.refresh(targets oid[])
RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
    SELECT changefeed.refresh_tables(targets)
$function$;

-- The same for all tables; the server calls it regularly.
CREATE OR REPLACE FUNCTION changefeed.refresh()
RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF has_function_privilege('changefeed.refresh_tables(oid[])', 'EXECUTE') THEN
        RETURN QUERY SELECT changefeed.refresh_tables(NULL);
    ELSE
        RETURN QUERY SELECT changefeed.refresh(NULL::oid[]);
    END IF;
END
$function$;

-- Watches a new or attached partition in the same transaction, if a superuser installed this; otherwise the server's next refresh
-- finds it. Checks only the tables of the DDL command, so that it locks no others, and temporary tables cost nothing.
CREATE OR REPLACE FUNCTION changefeed.refresh_after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET exit_on_error = off AS $function$
DECLARE
    targets oid[];
BEGIN
    targets := ARRAY(
        SELECT coalesce(pg_partition_root(c.objid), c.objid) FROM pg_event_trigger_ddl_commands() AS c
        WHERE c.classid = 'pg_class'::regclass AND c.schema_name <> 'pg_temp'
        UNION
        SELECT i.inhparent FROM pg_event_trigger_ddl_commands() AS c JOIN pg_inherits AS i ON i.inhrelid = c.objid
        WHERE c.classid = 'pg_class'::regclass AND c.schema_name <> 'pg_temp'
    );
    IF targets <> '{}' THEN
        PERFORM changefeed.refresh_tables(targets);
    END IF;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM changefeed.warn(format('new partitions are not watched yet: %s', SQLERRM));
    EXCEPTION WHEN undefined_function THEN
        NULL;  -- the schema was dropped in part, as by pg_restore --clean --section pre-data
    END;
END
$function$;

-- Only if the function's owner is a superuser: an event trigger runs its function in the sessions of all users, and the function's owner
-- may replace it.
DO $event_trigger$
BEGIN
    IF (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user)
       AND NOT EXISTS (
           SELECT FROM pg_event_trigger AS e
           WHERE e.evtname = 'changefeed_new_partitions' AND e.evtfoid = 'changefeed.refresh_after_ddl()'::regprocedure
             AND cardinality(e.evttags) = 3
       ) THEN
        DROP EVENT TRIGGER IF EXISTS changefeed_new_partitions;
        CREATE EVENT TRIGGER changefeed_new_partitions ON ddl_command_end
            WHEN TAG IN ('CREATE TABLE', 'CREATE FOREIGN TABLE', 'ALTER TABLE') EXECUTE FUNCTION changefeed.refresh_after_ddl();
    END IF;
END
$event_trigger$;
