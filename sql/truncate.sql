-- TRUNCATE around partitions. That of a root reaches its partitions too and fires their triggers; the root's entry is
-- enough then. That of a partition alone takes some of the root's rows away: to whoever follows the root these are
-- deleted. Where there are more of them than the limit (10000 where none is set), one entry stands for all.
--
-- Two triggers BEFORE it. The first runs as whoever truncates: planning a query may run code of the table's owner, such as
-- an index's expression. It hands the rows over, in a transaction-local setting, to the second, which journals them as the
-- journal's owner. Nobody else's code runs between the two, and the first always sets it; so a writer cannot set it instead.
-- Whether a root is being truncated, the first one takes from a setting too, and the second looks it up in a sequence's
-- currval(): the session keeps it, and none but the journal's owner may change it. The table's owner may part the two, or set
-- another trigger between them: so the second takes nothing unless the first ran right before it, and nothing but what that
-- one hands over.

-- Hands over {"rows": [...]} or {"count": n}, {"error": "..."}, {"root": oid} where that one is truncated, {"apart": true} where its
-- partitions are to be journaled one by one, or nothing. Columns to hash are their texts in there, which this role may read
-- anyway, and are hashed as the owner.
CREATE OR REPLACE FUNCTION changefeed.read_truncated() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off SET row_security = off
SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' SET quote_all_identifiers = off
SET array_nulls = on SET standard_conforming_strings = on AS $function$
DECLARE
    root text := current_setting('changefeed.truncating', true);
    before text[] := string_to_array(nullif(current_setting('changefeed.truncated_before', true), ''), ',');
    options json := coalesce(TG_ARGV[0], '{}')::json;
    row_limit bigint := coalesce((options ->> 'limit')::bigint, 10000);
    omit text[] := ARRAY(SELECT json_array_elements_text(options -> 'omit'));
    hash text[] := ARRAY(SELECT json_array_elements_text(options -> 'hash'));
    touched bigint;
    columns text;
    found_rows text;
BEGIN
    PERFORM set_config('changefeed.truncated', '', true);
    IF pg_partition_root(TG_RELID) = TG_RELID THEN
        RETURN NULL;
    ELSIF EXISTS (
        SELECT FROM pg_partition_ancestors(TG_RELID) AS a WHERE a.relid <> TG_RELID AND a.relid::oid::text = root
    ) THEN
        PERFORM set_config('changefeed.truncated', json_build_object('root', root)::text, true);
        RETURN NULL;
    ELSIF EXISTS (SELECT FROM pg_partition_tree(TG_RELID) AS t WHERE t.relid::oid::text = ANY (before)) THEN
        -- The statement named a partition of it before it, whose rows are journaled; the others are on their own too.
        PERFORM set_config('changefeed.truncated', '{"apart": true}', true);
        RETURN NULL;
    END IF;
    PERFORM set_config('changefeed.truncated_before', array_to_string(before || TG_RELID::text, ','), true);
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        -- TRUNCATE takes away rows that came after the transaction's snapshot, which no query of it can see, and some that
        -- the snapshot still shows were deleted, and journaled so, before.
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
            )
        ) THEN
            RAISE EXCEPTION 'a column that was to be left out or hashed is gone; call changefeed.watch anew';
        END IF;
        -- Here virtual generated columns are computed.
        SELECT string_agg(
            CASE
                WHEN a.attname = ANY (hash)
                    THEN format('CASE WHEN num_nonnulls(%1$I) = 1 THEN format(''%%s'', %1$I) END AS %1$I', a.attname)
                ELSE quote_ident(a.attname)
            END,
            ', ' ORDER BY r.attnum
        ) INTO columns
        FROM pg_attribute AS a JOIN pg_attribute AS r
            ON r.attrelid = pg_partition_root(TG_RELID) AND r.attname = a.attname  -- its order may be another
        WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (omit);
        EXECUTE format(
            'SELECT ''{"rows": ['' || string_agg(row_to_json(p.*)::text, '','') || '']}'' FROM (SELECT %s FROM %s) AS p',
            columns, TG_RELID::regclass
        ) INTO found_rows;
    END IF;
    PERFORM set_config('changefeed.truncated', found_rows, true);
    RETURN NULL;
EXCEPTION WHEN transaction_rollback THEN
    RAISE;  -- a serialization failure or a deadlock is between writers
WHEN OTHERS THEN
    PERFORM set_config('changefeed.truncated', json_build_object('error', SQLERRM)::text, true);
    RETURN NULL;
END
$function$;

-- The rows handed over, with the hashes of the columns to hash.
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
                WHEN a.attname = ANY (hash) THEN format('%s AS %I', changefeed.hashed_value(
                    target, a.attname, a.atttypid, format('r.%I::%s', a.attname, changefeed.safe_type(a.atttypid))
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

-- Whether the trigger that fired right before this one, on a TRUNCATE of this table, is the one that hands over.
CREATE OR REPLACE FUNCTION changefeed.was_handed_over(target oid, trigger_name name)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN coalesce((
        SELECT t.tgfoid = 'changefeed.read_truncated()'::regprocedure AND t.tgqual IS NULL
        FROM pg_trigger AS t
        WHERE t.tgrelid = target AND t.tgtype = 2 + 32 AND t.tgname < trigger_name
          AND t.tgenabled IN ('A', CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
        ORDER BY t.tgname DESC LIMIT 1
    ), false);
END
$function$;

-- Whether it is what changefeed.read_truncated() hands over of a partition: rows, or a count that JSON's readers can tell.
CREATE OR REPLACE FUNCTION changefeed.is_handed_over(truncated json)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN CASE
        WHEN json_typeof(truncated) <> 'object' OR (truncated -> 'rows' IS NULL) = (truncated -> 'count' IS NULL) THEN false
        WHEN truncated -> 'count' IS NOT NULL THEN (truncated ->> 'count')::bigint BETWEEN 1 AND 9007199254740991
        WHEN json_typeof(truncated -> 'rows') <> 'array' THEN false
        ELSE NOT EXISTS (
            SELECT FROM json_array_elements(truncated -> 'rows') AS r (data) WHERE json_typeof(r.data) <> 'object'
        )
    END IS TRUE;
END
$function$;

-- Journals what was handed over; and keeps in mind, until it is over, that this table is truncated with its partitions.
CREATE OR REPLACE FUNCTION changefeed.record_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    truncated json;
    root bigint;
    writers_lastval bigint;
    reason text;
BEGIN
    IF TG_WHEN = 'AFTER' THEN
        PERFORM set_config('changefeed.truncated_before', '', true);
        IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = TG_RELID AND c.relkind = 'p') THEN
            PERFORM setval('changefeed.truncating', 1), set_config('changefeed.truncating', '', true);
        END IF;
        RETURN NULL;
    END IF;
    BEGIN
        writers_lastval := lastval();
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    BEGIN
        truncated := nullif(current_setting('changefeed.truncated', true), '')::json;
        PERFORM set_config('changefeed.truncated', '', true);
        IF NOT changefeed.was_handed_over(TG_RELID, TG_NAME) THEN
            RAISE EXCEPTION 'the trigger changefeed_truncating is not the one right before %; enable it, let none be between',
                quote_ident(TG_NAME);
        END IF;
        root := (truncated ->> 'root')::bigint;
        IF root IS NOT NULL THEN
            IF currval('changefeed.truncating') <> root THEN
                RAISE EXCEPTION 'changefeed.truncating is not a setting of yours';
            END IF;
            RETURN NULL;
        ELSIF truncated ->> 'apart' IS NOT NULL THEN
            RETURN NULL;
        END IF;
        IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = TG_RELID AND c.relkind = 'p') THEN
            PERFORM setval('changefeed.truncating', TG_RELID::bigint),
                set_config('changefeed.truncating', TG_RELID::text, true);
        END IF;
        IF truncated ->> 'error' IS NOT NULL THEN
            RAISE EXCEPTION '%', truncated ->> 'error';
        ELSIF truncated IS NULL THEN
            RETURN NULL;
        ELSIF NOT changefeed.is_handed_over(truncated) THEN
            RAISE EXCEPTION 'changefeed.truncated is not a setting of yours';
        END IF;
        INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data, row_count)
        SELECT s.last_value, clock_timestamp(), 'D', n.nspname, c.relname, r.data, (truncated ->> 'count')::bigint
        FROM changefeed.slot AS s, pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
            (SELECT changefeed.hash_rows(TG_RELID, truncated -> 'rows', coalesce(TG_ARGV[0], '{}')::json) AS data
             UNION ALL SELECT NULL WHERE truncated ->> 'count' IS NOT NULL) AS r
        WHERE c.oid = pg_partition_root(TG_RELID);
    EXCEPTION WHEN transaction_rollback THEN
        RAISE;
    WHEN OTHERS THEN
        reason := SQLERRM;
        BEGIN
            RAISE WARNING 'changefeed: the TRUNCATE of % was not journaled: %', TG_RELID::regclass, reason;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- as in record.sql
        END;
        BEGIN
            INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name)
            SELECT coalesce(pg_sequence_last_value('changefeed.slot'), 0), clock_timestamp(), 'L', n.nspname, c.relname
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.oid = pg_partition_root(TG_RELID);
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
