-- Keeps what servers filtered by an outdated type, for clients that come back.
--
-- Columns that servers took for another type for a moment, and so filtered wrongly: for clients that reconnect after a restart, or
-- to another process. One row for each process that reported it to its clients; `seen` is the snapshot of that moment.
CREATE TABLE IF NOT EXISTS changefeed.retyped (
    number bigint PRIMARY KEY,
    journal text NOT NULL,
    seen pg_snapshot NOT NULL,
    table_name text NOT NULL,  -- with its schema, as gaps have it
    columns text[] NOT NULL,
    since timestamptz,
    at timestamptz NOT NULL
);

-- Runs as the schema's owner, so that the server's role needs no right to write. Keeps the newest 1,001: by the last of these a
-- server knows that there were more than 1,000.
CREATE OR REPLACE FUNCTION changefeed.note_retyped(of_table text, of_columns text[], since timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET lock_timeout = '10s' AS $function$
BEGIN
    PERFORM changefeed.check_names(of_columns || of_table);
    IF cardinality(of_columns) > 1600 OR isfinite(since) IS FALSE THEN  -- as many columns as a table may have
        RAISE EXCEPTION 'there are % columns, and the time is %; a table has at most 1600, and a time is finite', cardinality(of_columns), since
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
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
