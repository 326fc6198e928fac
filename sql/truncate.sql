-- TRUNCATE of partitioned tables. A TRUNCATE of the root also reaches its partitions and fires their triggers; then the root's entry
-- is enough. A TRUNCATE of a partition alone removes some of the root's rows: they are recorded as deleted. If there are more than
-- the limit (10000 if none is set), one entry stands for all.
--
-- Two triggers fire BEFORE it. The first runs as the truncating role: planning a query may run code of the table's owner, such as an
-- index's expression. It passes the rows, in a transaction-local setting, to the second, which journals them as the journal's
-- owner. Any user may set a setting, so it is used only if no other code can have run between the two (was_handed_over); else
-- the second records a loss.
--
-- The tables that the statement has processed are in a table to which only the journal's owner has rights. The first trigger gets them
-- from another setting, which saves needless reading of rows; if another user set it, the second finds no rows and records a
-- loss.

-- The tables that a running TRUNCATE has processed, with their partitions; one row per transaction. A rollback undoes the row with
-- the TRUNCATE. The session finds its row by a place in the sequence's currval(): a search would make concurrent transactions at
-- SERIALIZABLE fail.
CREATE UNLOGGED TABLE IF NOT EXISTS changefeed.truncation (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tables oid[] NOT NULL,
    last_id bigint NOT NULL  -- of the journal, when this was written
);
CREATE SEQUENCE IF NOT EXISTS changefeed.truncating;

CREATE OR REPLACE FUNCTION changefeed.truncated_so_far()
RETURNS changefeed.truncation LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    place bigint;
    known changefeed.truncation;
BEGIN
    place := currval('changefeed.truncating');
    SELECT * INTO known FROM changefeed.truncation AS t
    WHERE t.ctid = format('(%s,%s)', place >> 16, place & 65535)::tid AND t.xid = pg_current_xact_id();
    known.tables := coalesce(known.tables, '{}');
    RETURN known;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    known.tables := '{}';  -- the session has truncated no table
    RETURN known;
END
$function$;

-- The last id that this session has drawn from the journal's sequence.
CREATE OR REPLACE FUNCTION changefeed.last_id()
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN currval('changefeed.journal_id');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN 0;
END
$function$;

-- Records a loss if other triggers have written to the partitioned table after its rows were recorded as deleted, but before these
-- were removed: new rows are gone too, and deleted rows are recorded twice.
CREATE OR REPLACE FUNCTION changefeed.tell_of_writes_since(truncated changefeed.truncation, target oid)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF changefeed.last_id() = truncated.last_id THEN
        RETURN;
    END IF;
    INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name)
    SELECT coalesce(pg_sequence_last_value('changefeed.slot'), 0), clock_timestamp(), 'L', n.schema_name, n.table_name
    FROM changefeed.name_now(pg_partition_root(target)) AS n
    WHERE EXISTS (
        SELECT FROM changefeed.journal AS j
        WHERE j.xid = pg_current_xact_id() AND j.id > truncated.last_id
          AND j.schema_name = n.schema_name AND j.table_name = n.table_name
    );
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.set_truncated_so_far(tables oid[])
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
    place bigint;
    parts text[];
BEGIN
    BEGIN
        place := currval('changefeed.truncating');
        DELETE FROM changefeed.truncation AS t
        WHERE t.ctid = format('(%s,%s)', place >> 16, place & 65535)::tid AND t.xid = pg_current_xact_id();
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        NULL;
    END;
    IF cardinality(tables) > 0 THEN
        INSERT INTO changefeed.truncation AS t (tables, last_id) VALUES (tables, changefeed.last_id())
        RETURNING string_to_array(trim('()' FROM t.ctid::text), ',') INTO parts;
        PERFORM setval('changefeed.truncating', (parts[1]::bigint << 16) + parts[2]::bigint);
    END IF;
    PERFORM set_config('changefeed.truncating', array_to_string(tables, ','), true);
END
$function$;

-- Passes on {"rows": [...]}, {"count": n}, {"error": "..."}, or {"dealt_with": true} if the rows are not needed. Columns to hash
-- are passed as their texts, which this role may read anyway; the second trigger hashes them as the owner.
--
-- Values are as in the other entries (values.sql): where to_json would use a cast of a type's owner who is not trusted, the text.
-- This role cannot call the functions there. So a composite type that has such a cast inside is not taken apart, but a loss.
CREATE OR REPLACE FUNCTION changefeed.read_truncated() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET row_security = off
SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' SET quote_all_identifiers = off
SET array_nulls = on SET standard_conforming_strings = on AS $function$
DECLARE
    before text[] := string_to_array(nullif(current_setting('changefeed.truncating', true), ''), ',');
    options json := coalesce(TG_ARGV[0], '{}')::json;
    row_limit bigint := coalesce((options ->> 'limit')::bigint, 10000);
    omit text[] := ARRAY(SELECT json_array_elements_text(options -> 'omit'));
    hash text[] := ARRAY(SELECT json_array_elements_text(options -> 'hash'));
    touched bigint;
    trusted oid[];
    columns text;
    found_rows text;
BEGIN
    PERFORM set_config('changefeed.truncated', '', true);
    IF pg_partition_root(TG_RELID) = TG_RELID THEN
        RETURN NULL;
    ELSIF EXISTS (
        SELECT FROM pg_partition_ancestors(TG_RELID) AS a WHERE a.relid <> TG_RELID AND a.relid::oid::text = ANY (before)
        UNION ALL
        SELECT FROM pg_partition_tree(TG_RELID) AS t WHERE t.relid <> TG_RELID AND t.relid::oid::text = ANY (before)
    ) THEN
        PERFORM set_config('changefeed.truncated', '{"dealt_with": true}', true);
        RETURN NULL;
    END IF;
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        -- TRUNCATE also removes rows that are newer than the transaction's snapshot, which its queries cannot see; and some
        -- rows that the snapshot still shows were deleted before, and recorded as deleted.
        RAISE EXCEPTION 'what is in a partition cannot be seen at the isolation level %; TRUNCATE it in READ COMMITTED',
            upper(current_setting('transaction_isolation'));
    END IF;
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT %s) AS r', TG_RELID::regclass, row_limit + 1) INTO touched;
    IF touched > row_limit THEN
        EXECUTE format('SELECT json_build_object(''count'', count(*)) FROM %s', TG_RELID::regclass) INTO found_rows;
    ELSIF touched > 0 THEN
        IF EXISTS (
            SELECT FROM unnest(omit || hash) AS name
            WHERE NOT EXISTS (
                SELECT FROM pg_attribute AS a
                WHERE a.attrelid = TG_RELID AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped
                  AND (options -> 'numbers' IS NULL OR a.attnum = (options -> 'numbers' ->> name)::integer)
                  AND coalesce((options ->> 'gone_in')::oid = TG_RELID, true)
            )
        ) THEN
            RAISE EXCEPTION 'a column that was to be left out or hashed is gone; call changefeed.watch again';
        END IF;
        trusted := ARRAY(
            SELECT p.proowner FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME
            UNION ALL
            SELECT oid FROM pg_roles WHERE rolsuper
        );
        IF EXISTS (
            WITH RECURSIVE part (type, is_within) AS (
                SELECT a.atttypid, false FROM pg_attribute AS a
                WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (omit || hash)
                UNION
                SELECT inner_part.type, p.is_within OR t.typtype = 'c'
                FROM part AS p JOIN pg_type AS t ON t.oid = p.type CROSS JOIN LATERAL (
                    SELECT a.atttypid FROM pg_attribute AS a
                    WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'c'
                    UNION ALL
                    SELECT t.typbasetype
                    UNION ALL
                    SELECT t.typelem
                ) AS inner_part (type)
                WHERE inner_part.type >= 16384
            )
            SELECT FROM part AS p JOIN pg_type AS t ON t.oid = p.type JOIN pg_cast AS c ON c.castsource = t.oid
            WHERE c.casttarget = 'json'::regtype AND (p.is_within OR t.typtype = 'c')
              AND (
                  t.typowner <> ALL (trusted) OR t.typtype IN ('e', 'r', 'm')
                  OR EXISTS (SELECT FROM pg_proc AS f WHERE f.oid = c.castfunc AND f.proowner <> ALL (trusted))
              )
        ) THEN
            RAISE EXCEPTION 'a composite type has a cast to json that must not be used';
        END IF;
        -- Here virtual generated columns are computed.
        SELECT string_agg(
            CASE
                WHEN a.attname = ANY (hash)
                    THEN format('CASE WHEN num_nonnulls(%1$I) = 1 THEN format(''%%s'', %1$I) END AS %1$I', a.attname)
                WHEN as_text.brackets IS NOT NULL THEN format(
                    'CASE WHEN num_nonnulls(%1$I) = 1 THEN format(''%%s'', %1$I)::text%2$s END AS %1$I',
                    a.attname, as_text.brackets
                )
                ELSE quote_ident(a.attname)
            END,
            ', ' ORDER BY r.attnum
        ) INTO columns
        FROM pg_attribute AS a JOIN pg_attribute AS r
            ON r.attrelid = pg_partition_root(TG_RELID) AND r.attname = a.attname  -- whose columns may be in another order
        LEFT JOIN LATERAL (
            -- The type below domains and arrays, if its values are recorded as texts (see values.sql).
            WITH RECURSIVE element AS (
                SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typowner, '' AS brackets
                FROM pg_type AS t WHERE t.oid = a.atttypid
                UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typowner,
                    CASE WHEN e.typtype = 'd' THEN e.brackets ELSE '[]' END
                FROM element AS e JOIN pg_type AS t
                    ON t.oid = CASE
                        WHEN e.typtype = 'd' THEN e.typbasetype
                        WHEN e.oid >= 16384 THEN nullif(e.typelem, 0)
                    END
            )
            SELECT e.brackets FROM element AS e
            WHERE e.oid >= 16384 AND e.typelem = 0 AND (
                e.typtype IN ('e', 'r', 'm') OR e.typtype = 'b' AND (e.typowner <> ALL (trusted) OR EXISTS (
                    SELECT FROM pg_cast AS c JOIN pg_proc AS f ON f.oid = c.castfunc
                    WHERE c.castsource = e.oid AND c.casttarget = 'json'::regtype AND f.proowner <> ALL (trusted)
                ))
            )
        ) AS as_text ON true
        WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (omit);
        EXECUTE format(
            'SELECT ''{"rows": ['' || string_agg(row_to_json(p.*)::text, '','') || '']}'' FROM (SELECT %s FROM %s) AS p',
            columns, TG_RELID::regclass
        ) INTO found_rows;
    END IF;
    PERFORM set_config('changefeed.truncated', coalesce(found_rows, '{"count": 0}'), true);
    RETURN NULL;
EXCEPTION WHEN transaction_rollback THEN
    RAISE;  -- a serialization failure or a deadlock concerns the writers
WHEN OTHERS THEN
    PERFORM set_config('changefeed.truncated', json_build_object('error', SQLERRM)::text, true);
    RETURN NULL;
END
$function$;

-- The passed rows, with the hashes of the columns to hash.
CREATE OR REPLACE FUNCTION changefeed.hash_rows(target oid, found_rows json, options json)
RETURNS SETOF json LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    omit text[] := ARRAY(SELECT json_array_elements_text(options -> 'omit'));
    hash text[] := ARRAY(SELECT json_array_elements_text(options -> 'hash'));
    columns text;
    definitions text;
BEGIN
    IF cardinality(hash) = 0 THEN
        RETURN QUERY SELECT json_array_elements(found_rows);
        RETURN;
    END IF;
    SELECT
        string_agg(
            CASE
                -- Its text, which read_truncated() made with the settings of a hash.
                WHEN a.attname = ANY (hash) THEN format('%s AS %I', changefeed.hashed_value(
                    target, a.attname, 'text'::regtype, format('r.%I', a.attname)
                ), a.attname)
                ELSE format('r.%I', a.attname)
            END,
            ', ' ORDER BY changefeed.place(a)
        ),
        string_agg(format('%I %s', a.attname, CASE WHEN a.attname = ANY (hash) THEN 'text' ELSE 'json' END), ', ')
    INTO columns, definitions
    FROM pg_attribute AS a
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (omit);
    RETURN QUERY EXECUTE format(
        'SELECT row_to_json(h.*) FROM (SELECT %s FROM json_to_recordset($1) AS r (%s)) AS h', columns, definitions
    ) USING found_rows;
END
$function$;

-- Whether the row with this xmin was written by this transaction, or within one of its savepoints.
CREATE OR REPLACE FUNCTION changefeed.is_of_this_transaction(xmin xid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    mine constant bigint := pg_current_xact_id()::text::bigint;
    further constant bigint := (xmin::text::bigint - mine) & 4294967295;  -- an xmin has 32 bits
BEGIN
    RETURN pg_xact_status((mine + further)::text::xid8) = 'in progress';
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;  -- it would be in the future, so it is in the past
END
$function$;

-- Whether the trigger that fired right before this one, on a TRUNCATE of this table, is the one that passes the rows, so that no
-- other code can have run between the two. The catalog shows the present triggers, but PostgreSQL fires those that existed when
-- the statement began: one of them may have been replaced or renamed since (none can be dropped while the table is truncated).
-- So if the table has other triggers, this transaction must not have changed any. Nor may the isolation level show an old
-- catalog.
CREATE OR REPLACE FUNCTION changefeed.was_handed_over(target oid, trigger_name name)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable') AND coalesce((
        SELECT t.tgfoid = 'changefeed.read_truncated()'::regprocedure AND t.tgqual IS NULL
        FROM pg_trigger AS t
        WHERE t.tgrelid = target AND t.tgtype & (2 + 32) = 2 + 32  -- BEFORE TRUNCATE, perhaps with other events
          AND t.tgname < trigger_name
          AND t.tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
        ORDER BY t.tgname DESC LIMIT 1
    ), false) AND NOT (
        EXISTS (
            SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = target AND NOT t.tgisinternal AND (
                p.pronamespace <> 'changefeed'::regnamespace OR p.proname = 'request'  -- which other roles may be allowed to use
            )
        ) AND EXISTS (
            SELECT FROM pg_trigger AS t
            WHERE t.tgrelid = target AND NOT t.tgisinternal AND changefeed.is_of_this_transaction(t.xmin)
        )
    );
END
$function$;

-- Whether the trigger fires that marks the end of the TRUNCATE.
CREATE OR REPLACE FUNCTION changefeed.is_told_the_end(target oid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_trigger AS t
        WHERE t.tgrelid = target AND t.tgfoid = 'changefeed.record_truncated()'::regprocedure AND t.tgtype = 32
          AND t.tgqual IS NULL
          AND t.tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
    );
END
$function$;

-- Whether the JSON is one that changefeed.read_truncated() passes on: rows, or a count that JSON can represent exactly.
CREATE OR REPLACE FUNCTION changefeed.is_handed_over(truncated json)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN CASE
        WHEN json_typeof(truncated) <> 'object' OR (truncated -> 'rows' IS NULL) = (truncated -> 'count' IS NULL) THEN false
        WHEN truncated -> 'count' IS NOT NULL THEN (truncated ->> 'count')::bigint BETWEEN 0 AND 9007199254740991
        WHEN json_typeof(truncated -> 'rows') <> 'array' THEN false
        ELSE NOT EXISTS (
            SELECT FROM json_array_elements(truncated -> 'rows') AS r (data) WHERE json_typeof(r.data) <> 'object'
        )
    END IS TRUE;
END
$function$;

-- Journals the rows that were passed on, and notes that this TRUNCATE has processed the table and its partitions.
CREATE OR REPLACE FUNCTION changefeed.record_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    truncated json;
    before changefeed.truncation;
    writers_lastval bigint;
    reason text;
BEGIN
    BEGIN
        writers_lastval := lastval();
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    IF TG_WHEN = 'AFTER' THEN
        BEGIN
            before := changefeed.truncated_so_far();
            IF TG_RELID = ANY (before.tables) THEN
                IF pg_partition_root(TG_RELID) <> TG_RELID THEN
                    PERFORM changefeed.tell_of_writes_since(before, TG_RELID);
                    PERFORM changefeed.put_back_lastval(writers_lastval);
                END IF;
                PERFORM changefeed.set_truncated_so_far(array_remove(before.tables, TG_RELID));
            END IF;
        EXCEPTION WHEN transaction_rollback THEN
            RAISE;
        WHEN OTHERS THEN
            NULL;  -- one of these was dropped; the next TRUNCATE is recorded as a loss
        END;
        RETURN NULL;
    END IF;
    BEGIN
        truncated := nullif(current_setting('changefeed.truncated', true), '')::json;
        PERFORM set_config('changefeed.truncated', '', true);
        before := changefeed.truncated_so_far();
        IF pg_partition_root(TG_RELID) <> TG_RELID AND EXISTS (
            SELECT FROM pg_partition_ancestors(TG_RELID) AS a WHERE a.relid <> TG_RELID AND a.relid = ANY (before.tables)
            UNION ALL
            -- The statement named one of its partitions first, whose rows are recorded; the other partitions record theirs too.
            SELECT FROM pg_partition_tree(TG_RELID) AS t WHERE t.relid <> TG_RELID AND t.relid = ANY (before.tables)
        ) THEN
            RETURN NULL;
        ELSIF NOT changefeed.is_told_the_end(TG_RELID) THEN
            RAISE EXCEPTION 'the trigger changefeed_truncated does not fire; enable it';
        ELSIF pg_partition_root(TG_RELID) = TG_RELID THEN
            PERFORM changefeed.set_truncated_so_far(before.tables || TG_RELID);
            RETURN NULL;
        ELSIF truncated ->> 'error' IS NOT NULL THEN
            RAISE EXCEPTION '%', truncated ->> 'error';
        ELSIF NOT changefeed.was_handed_over(TG_RELID, TG_NAME) THEN
            RAISE EXCEPTION 'the trigger changefeed_truncating is not the one right before %; enable it, let none be between, change none of this table in the same transaction',
                quote_ident(TG_NAME);
        ELSIF NOT changefeed.is_handed_over(truncated) THEN
            RAISE EXCEPTION 'changefeed.truncated or changefeed.truncating is not a setting of yours';
        END IF;
        IF before.tables <> '{}' THEN
            PERFORM changefeed.tell_of_writes_since(before, TG_RELID);
        END IF;
        -- This takes the number of a command, as TRUNCATE has not yet done. Else the reader would take the entries for a part of
        -- the statement before (changefeed/ordering/statement_order.py).
        DELETE FROM changefeed.truncation WHERE false;
        INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data, row_count)
        SELECT s.last_value, clock_timestamp(), 'D', n.schema_name, n.table_name, r.data, (truncated ->> 'count')::bigint
        FROM changefeed.slot AS s, changefeed.name_now(pg_partition_root(TG_RELID)) AS n,
            (SELECT changefeed.hash_rows(TG_RELID, truncated -> 'rows', coalesce(TG_ARGV[0], '{}')::json) AS data
             UNION ALL SELECT NULL WHERE (truncated ->> 'count')::bigint > 0) AS r;
        PERFORM changefeed.set_truncated_so_far(before.tables || TG_RELID);
    EXCEPTION WHEN transaction_rollback THEN
        RAISE;
    WHEN OTHERS THEN
        reason := SQLERRM;
        BEGIN
            RAISE WARNING 'changefeed: the TRUNCATE of % was not recorded: %', TG_RELID::regclass, reason;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- as in record.sql
        END;
        BEGIN
            INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name)
            SELECT coalesce(pg_sequence_last_value('changefeed.slot'), 0), clock_timestamp(), 'L', n.schema_name, n.table_name
            FROM changefeed.name_now(pg_partition_root(TG_RELID)) AS n;
        EXCEPTION WHEN transaction_rollback THEN
            RAISE;
        WHEN OTHERS THEN
            BEGIN
                PERFORM setval('changefeed.losses', nextval('changefeed.losses'));  -- as in record.sql
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
        END;
    END;
    BEGIN
        PERFORM changefeed.put_back_lastval(writers_lastval);
        IF changefeed.may_notify() THEN
            NOTIFY changefeed;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    RETURN NULL;
END
$function$;
