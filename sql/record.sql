-- The triggers' functions: a statement's rows in, journal rows and one NOTIFY out.
--
-- They run as the journal's owner (SECURITY DEFINER, fixed search_path), so that a writer needs no right on it.
-- changefeed.record never fails a write: what cannot be journaled is counted in changefeed.losses, and the readers are
-- told of a gap. That costs a subtransaction for each statement; changefeed.record_strict has none, and fails the
-- write instead. Both are made from the one text below.
--
-- What costs is each statement in here. So the usual case (no argument; columns of trusted types; of an UPDATE, one
-- row) is told by the condition of the one INSERT that serves it. Only where that writes nothing the rest asks why.
--
-- Their argument, where there is one, is JSON:
-- {"omit": [column, ...], "hash": [column, ...], "limit": rows, "root": true, "dynamic": true}
DO $make$
DECLARE
    trusted constant text := $condition$
        (NOT EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND a.atttypid >= 16384 AND NOT changefeed.trusts(a.atttypid)
        ) AND (current_setting('transaction_isolation') = 'read committed' OR changefeed.trusts_columns(TG_RELID)))
    $condition$;
    body constant text := replace($body$
        slot := coalesce(pg_sequence_last_value('changefeed.slot'), 0);
        -- r.*, not r: there may be a column of that name.
        IF TG_NARGS > 0 THEN
            NULL;  -- not the usual case
        ELSIF TG_OP = 'INSERT' THEN
            INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
            SELECT slot, at, 'I', TG_TABLE_SCHEMA, TG_TABLE_NAME, row_to_json(r.*) FROM new_rows AS r WHERE <trusted>;
        ELSIF TG_OP = 'UPDATE' THEN
            INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data, old)
            SELECT slot, at, 'U', TG_TABLE_SCHEMA, TG_TABLE_NAME, row_to_json(r.*),
                (SELECT row_to_json(r.*) FROM old_rows AS r)
            FROM new_rows AS r WHERE NOT EXISTS (SELECT FROM old_rows OFFSET 1) AND <trusted>;
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
            SELECT slot, at, 'D', TG_TABLE_SCHEMA, TG_TABLE_NAME, row_to_json(r.*) FROM old_rows AS r WHERE <trusted>;
        END IF;

        IF NOT FOUND OR TG_NARGS > 0 OR TG_OP = 'TRUNCATE' THEN
            IF TG_LEVEL = 'ROW' THEN
                touched := 1;
            ELSIF TG_OP = 'INSERT' THEN
                SELECT count(*) INTO touched FROM new_rows;
            ELSIF TG_OP <> 'TRUNCATE' THEN
                SELECT count(*) INTO touched FROM old_rows;
            END IF;
            IF touched = 0 THEN
                RETURN NULL;
            END IF;
            operations := ARRAY[TG_OP];
            options := TG_ARGV[0]::json;
            schema_name := TG_TABLE_SCHEMA;
            table_name := TG_TABLE_NAME;
            IF options ->> 'root' IS NOT NULL THEN
                -- A partition written directly: its changes are the root's.
                SELECT n.nspname, c.relname INTO schema_name, table_name
                FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE c.oid = coalesce(pg_partition_root(TG_RELID), TG_RELID);
            END IF;
            is_dynamic := options ->> 'dynamic' IS NOT NULL OR NOT <trusted>;
            IF TG_OP = 'UPDATE' AND TG_LEVEL = 'STATEMENT' THEN
                -- A row that moves to another partition, and that a trigger there keeps out, is gone: there are fewer
                -- new rows than old ones, and nothing says which belong together.
                IF (SELECT count(*) FROM new_rows) < touched THEN
                    operations := '{DELETE,INSERT}';
                END IF;
            END IF;
            FOREACH operation IN ARRAY operations LOOP
                IF operation = 'TRUNCATE' THEN
                    INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name)
                    VALUES (slot, at, 'T', schema_name, table_name);
                ELSIF touched > (options ->> 'limit')::bigint AND TG_LEVEL = 'STATEMENT' THEN
                    INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, row_count)
                    VALUES (slot, at, left(operation, 1)::"char", schema_name, table_name, touched);
                ELSIF is_dynamic THEN
                    IF operation = 'UPDATE' THEN
                        OPEN old_values FOR EXECUTE changefeed.select_statement(TG_RELID, 'old_rows', TG_LEVEL, options)
                            USING OLD, NEW;
                    END IF;
                    EXECUTE format(
                        'INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data, old) '
                        'SELECT $3, $4, $5, $6, $7, r.row, CASE WHEN $8 IS NOT NULL THEN changefeed.next_value($8) END '
                        'FROM (%s) AS r',
                        changefeed.select_statement(
                            TG_RELID, CASE operation WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END,
                            TG_LEVEL, options
                        )
                    )
                    USING OLD, NEW, slot, at, left(operation, 1)::"char", schema_name, table_name, old_values;
                ELSIF operation = 'INSERT' THEN
                    INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
                    SELECT slot, at, 'I', schema_name, table_name, row_to_json(r.*) FROM new_rows AS r;
                ELSIF operation = 'DELETE' THEN
                    INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
                    SELECT slot, at, 'D', schema_name, table_name, row_to_json(r.*) FROM old_rows AS r;
                ELSE
                    -- Nothing but their order says which old row became which new one: PostgreSQL adds to both row by
                    -- row.
                    OPEN old_values FOR SELECT row_to_json(r.*) FROM old_rows AS r;
                    INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data, old)
                    SELECT slot, at, 'U', schema_name, table_name, row_to_json(r.*), changefeed.next_value(old_values)
                    FROM new_rows AS r;
                END IF;
            END LOOP;
            IF old_values IS NOT NULL THEN
                CLOSE old_values;
            END IF;
        END IF;
    $body$, '<trusted>', trusted);
    frame constant text := $frame$
        CREATE OR REPLACE FUNCTION changefeed.%I() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
        #variable_conflict use_variable
        DECLARE
            at timestamptz := clock_timestamp();
            slot smallint;
            touched bigint;
            options json;
            is_dynamic boolean;
            schema_name text;
            table_name text;
            operation text;
            operations text[];
            old_values refcursor;
        BEGIN
            %s
            -- It only wakes the server, which looks every few seconds anyway. A transaction with a NOTIFY cannot be
            -- prepared for a two-phase commit: where these are allowed, it is for the setting to say.
            IF coalesce(
                nullif(current_setting('changefeed.notify', true), ''),
                CASE current_setting('max_prepared_transactions') WHEN '0' THEN 'on' END
            ) = 'on' THEN
                NOTIFY changefeed;  -- those of a transaction are one
            END IF;
            RETURN NULL;
        END
        $function$
    $frame$;
    safe constant text := $safe$
        BEGIN
            %s
        EXCEPTION WHEN transaction_rollback THEN
            RAISE;  -- a serialization failure or a deadlock is between writers; the transaction was to fail anyway
        WHEN OTHERS THEN
            RAISE WARNING 'changefeed: a change of %%.%% was not journaled: %%', TG_TABLE_SCHEMA, TG_TABLE_NAME, SQLERRM;
            BEGIN
                PERFORM nextval('changefeed.losses');
            EXCEPTION WHEN OTHERS THEN
                NULL;  -- not even that is left; the warning is all that can be said
            END;
        END;
    $safe$;
BEGIN
    EXECUTE format(frame, 'record', format(safe, body));
    EXECUTE format(frame, 'record_strict', body);
END
$make$;

-- Whether the owner of a type may have code run as the journal's owner: to_json uses the cast to json that whoever owns a
-- type may make for it, and would run it here, with rights that are not theirs.
CREATE OR REPLACE FUNCTION changefeed.trusts(type oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        SELECT r.rolsuper OR r.rolname = current_user
        FROM pg_roles AS r WHERE r.oid = (SELECT t.typowner FROM pg_type AS t WHERE t.oid = type)
    );
END
$function$;

-- Whether the columns of a table are what the catalog says. In a repeatable read it says what was before an ALTER TABLE
-- that others have committed since; so that its owner may not give a column a type of their own meanwhile.
CREATE OR REPLACE FUNCTION changefeed.trusts_columns(target oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        SELECT current_setting('transaction_isolation') = 'read committed' OR r.rolsuper OR r.rolname = current_user
        FROM pg_roles AS r WHERE r.oid = (SELECT c.relowner FROM pg_class AS c WHERE c.oid = target)
    );
END
$function$;

-- A type that has the same texts as this one and runs nobody's code: PostgreSQL's own that an array or a domain is of, or
-- else text.
CREATE OR REPLACE FUNCTION changefeed.safe_type(column_type oid)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        WITH RECURSIVE element AS (
            SELECT t.oid, t.typtype, t.typbasetype, t.typelem, '' AS brackets
            FROM pg_type AS t WHERE t.oid = column_type
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype, t.typelem, CASE WHEN e.typtype = 'd' THEN e.brackets ELSE '[]' END
            FROM element AS e JOIN pg_type AS t
                ON t.oid = CASE
                    WHEN e.typtype = 'd' THEN e.typbasetype
                    WHEN e.oid >= 16384 THEN nullif(e.typelem, 0)
                END
        )
        SELECT CASE WHEN oid < 16384 THEN format_type(oid, -1) ELSE 'text' END || brackets
        FROM element WHERE typtype <> 'd' AND (oid < 16384 OR typelem = 0)
    );
END
$function$;

-- A column as an expression whose JSON is to_json's, by way of the type's output function, which only superusers can
-- make: an enum, a range, an array of these, a domain. A composite type becomes its text.
CREATE OR REPLACE FUNCTION changefeed.untrusted_value(column_name text, column_type oid)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN format(
        'CASE WHEN num_nonnulls(%1$I) = 1 THEN format(''%%s'', %1$I)::%2$s END',
        column_name, changefeed.safe_type(column_type)
    );
END
$function$;

-- A table's columns as a list for SELECT: without those left out, with the hashes of those to hash, and with virtual
-- generated ones computed, which a trigger sees as null.
CREATE OR REPLACE FUNCTION changefeed.column_list(target oid, options json)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    omit text[] := ARRAY(SELECT json_array_elements_text(options -> 'omit'));
    hash text[] := ARRAY(SELECT json_array_elements_text(options -> 'hash'));
    distrusts_all constant boolean := NOT changefeed.trusts_columns(target);
    gone text;
BEGIN
    SELECT name INTO gone FROM unnest(omit || hash) AS name
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = target AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped
    );
    IF gone IS NOT NULL THEN
        -- Dropped, or renamed: then it must not leave the table under its new name.
        RAISE EXCEPTION 'the column % that was to be left out or hashed is gone', quote_ident(gone)
            USING HINT = 'Call changefeed.watch anew.';
    END IF;
    RETURN (
        SELECT string_agg(
            CASE
                WHEN a.attname = ANY (hash)
                    THEN format('%s AS %I', changefeed.hashed_value(target, a.attname, a.atttypid, v.value), a.attname)
                WHEN a.attgenerated = 'v' THEN format('%s AS %I', v.value, a.attname)
                WHEN distrusts_all OR a.atttypid >= 16384 AND NOT changefeed.trusts(a.atttypid)
                    THEN format('%s AS %I', changefeed.untrusted_value(a.attname, a.atttypid), a.attname)
                ELSE v.value
            END,
            ', ' ORDER BY a.attnum
        )
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum,
            LATERAL (
                SELECT CASE WHEN a.attgenerated = 'v' THEN format('(%s)', pg_get_expr(d.adbin, d.adrelid))
                ELSE quote_ident(a.attname) END
            ) AS v (value)
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (omit)
    );
END
$function$;

-- The rows as JSON, for tables whose columns must be named, or whose trigger is one for each row (inheritance):
-- then $1 is OLD, $2 NEW.
CREATE OR REPLACE FUNCTION changefeed.select_statement(target oid, transition_table text, level text, options json)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        SELECT format(
            'SELECT row_to_json(r.*) AS row FROM (SELECT %s FROM %s) AS r',
            changefeed.column_list(target, options),
            CASE
                WHEN level = 'STATEMENT' THEN transition_table
                WHEN transition_table = 'old_rows' THEN '(SELECT ($1).*) AS r'
                ELSE '(SELECT ($2).*) AS r'
            END
        )
    );
END
$function$;

-- A cursor's next value. (A join by row_number() takes longer, for one row as for a million.) The search_path is its
-- caller's: to set it anew would cost more than the rest.
CREATE OR REPLACE FUNCTION changefeed.next_value(old_values refcursor) RETURNS json LANGUAGE plpgsql AS $function$
DECLARE
    value json;
BEGIN
    FETCH old_values INTO value;
    RETURN value;
END
$function$;
REVOKE ALL ON FUNCTION changefeed.record(), changefeed.record_strict(), changefeed.trusts(oid),
    changefeed.trusts_columns(oid), changefeed.safe_type(oid), changefeed.untrusted_value(text, oid),
    changefeed.column_list(oid, json), changefeed.select_statement(oid, text, text, json),
    changefeed.next_value(refcursor) FROM PUBLIC;
