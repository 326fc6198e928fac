-- The triggers' functions: a statement's rows in, journal rows and one NOTIFY out.
--
-- They run as the journal's owner (SECURITY DEFINER), so that a writer needs no right on it, and with fixed settings, so
-- that an entry depends on the row alone and not on the writer's session.
-- changefeed.record never fails a write. What it cannot journal becomes an entry of the action L: the readers get
-- a gap in this table, if the transaction commits. If not even that can be written, the sequence changefeed.losses is
-- advanced instead. This costs a subtransaction for each statement; changefeed.record_strict has none, and fails the
-- write instead. Both are made from the one text below.
--
-- Each statement in here costs time. So a statement that touched no row returns first, and the usual case (no argument; columns
-- of trusted types; for an UPDATE, one row) takes one INSERT. Only if that writes nothing does the rest find out why.
--
-- Their argument, if there is one, is JSON:
-- {"omit": [column, ...], "hash": [column, ...], "numbers": {column: attnum, ...}, "gone_in": table's oid,
--  "limit": rows, "root": true, "dynamic": true}
-- The numbers identify the columns to omit and to hash: a name can pass to another column. refresh() notes in which table one is gone.
DO $make$
DECLARE
    -- Evaluated at each statement if there are types that are not PostgreSQL's own: these, and their owners, can change
    -- while no table does.
    trusted constant text := $condition$
        (current_setting('transaction_isolation') = 'read committed' AND NOT EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND a.atttypid >= 16384 AND NOT changefeed.trusts(a.atttypid)
        ))
    $condition$;
    tell_of_moved constant text := $moved$
        IF pg_partition_root(TG_RELID) IS NOT NULL THEN
            GET DIAGNOSTICS context = PG_CONTEXT;
            has_lost := changefeed.may_have_moved(TG_RELID, context);
            IF has_lost THEN
                INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name)
                SELECT slot, at, 'L', n.schema_name, n.table_name FROM changefeed.name_now(pg_partition_root(TG_RELID)) AS n;
            END IF;
        END IF;
    $moved$;
    body constant text := replace(replace($body$
        IF lacks_rows THEN
            RAISE EXCEPTION 'the trigger % may have no transition tables, and a temporary relation has the name of one', quote_ident(TG_NAME)
                USING HINT = 'Make triggers with changefeed.watch.';
        END IF;
        slot := coalesce(pg_sequence_last_value('changefeed.slot'), 0);
        IF TG_NARGS = 0 THEN
            -- For changefeed.has_builtin_types(), in case one of the next statements must be planned.
            planned_for := set_config('changefeed.planned_for', TG_RELID::text, true);
            -- r.*, not r: there may be a column of that name.
            IF TG_OP = 'INSERT' THEN
                INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
                SELECT slot, at, 'I', TG_TABLE_SCHEMA, TG_TABLE_NAME, row_to_json(r.*)
                FROM new_rows AS r WHERE changefeed.has_builtin_types() OR <trusted>;
                is_recorded := FOUND;
            ELSIF TG_OP = 'DELETE' THEN
                INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data)
                SELECT slot, at, 'D', TG_TABLE_SCHEMA, TG_TABLE_NAME, row_to_json(r.*)
                FROM old_rows AS r WHERE changefeed.has_builtin_types() OR <trusted>;
                is_recorded := FOUND;
            ELSIF sampled = 1 THEN
                <tell_of_moved>
                INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, data, old)
                SELECT slot, at, 'U', TG_TABLE_SCHEMA, TG_TABLE_NAME, row_to_json(r.*),
                    (SELECT row_to_json(r.*) FROM old_rows AS r)
                FROM new_rows AS r WHERE changefeed.has_builtin_types() OR <trusted>;
                is_recorded := FOUND;
            END IF;
        END IF;

        IF is_recorded IS NOT TRUE THEN
            IF TG_OP = 'UPDATE' AND TG_LEVEL = 'STATEMENT' AND has_lost IS NULL THEN
                <tell_of_moved>
            END IF;
            schema_name := TG_TABLE_SCHEMA;
            table_name := TG_TABLE_NAME;
            IF TG_LEVEL = 'ROW' THEN
                touched := 1;
            ELSIF TG_OP = 'INSERT' THEN
                SELECT count(*) INTO touched FROM new_rows;
            ELSIF TG_OP <> 'TRUNCATE' THEN
                SELECT count(*) INTO touched FROM old_rows;
            END IF;
            IF touched = 0 AND has_lost IS NOT TRUE THEN
                RETURN NULL;
            END IF;
            operations := ARRAY[TG_OP];
            options := TG_ARGV[0]::json;
            IF options ->> 'root' IS NOT NULL THEN
                -- A partition that was written directly: its changes are recorded as the root's.
                SELECT n.schema_name, n.table_name INTO schema_name, table_name
                FROM changefeed.name_now(coalesce(pg_partition_root(TG_RELID), TG_RELID)) AS n;
            END IF;
            is_dynamic := TG_LEVEL = 'ROW' OR options ->> 'dynamic' IS NOT NULL OR NOT <trusted>;
            IF TG_LEVEL = 'STATEMENT' AND TG_OP <> 'TRUNCATE' AND options ->> 'dynamic' IS NULL
                AND current_setting('transaction_isolation') <> 'read committed'
            THEN
                types_test := changefeed.builtin_types_test(TG_RELID, CASE TG_OP WHEN 'DELETE' THEN 'old_rows' ELSE 'new_rows' END);
                IF types_test IS NOT NULL THEN
                    BEGIN
                        EXECUTE types_test INTO is_dynamic;
                    EXCEPTION WHEN invalid_column_reference THEN
                        NULL;  -- there are fewer columns now
                    END;
                END IF;
            END IF;
            IF TG_OP = 'UPDATE' AND TG_LEVEL = 'STATEMENT' THEN
                -- A row that moves to another partition is lost if a trigger there rejects it: there are fewer new rows
                -- than old ones, and nothing says which belong together.
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
                    -- Only their order says which old row became which new one: PostgreSQL adds to both row by row.
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
    $body$, '<tell_of_moved>', tell_of_moved), '<trusted>', trusted);
    -- After ids were drawn: makes lastval() return the writer's number again, or fail again if there was none (see
    -- journal.sql). Nothing reads `drawn`: an assignment takes less time than a PERFORM.
    put_back_lastval constant text := $put_back$
        IF writers_lastval > -9000000000000000000 THEN
            -- One after another, in one expression. The number is private to the writer, so the sequence is reset at once.
            drawn := num_nulls(
                nextval('changefeed.lastval'),
                setval('changefeed.lastval', writers_lastval),
                setval('changefeed.lastval', 1, false)
            );
        ELSE
            drawn := nextval('changefeed.no_lastval');
        END IF;
    $put_back$;
    frame constant text := replace($frame$
        CREATE OR REPLACE FUNCTION changefeed.%I() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        SET exit_on_error = off  -- an error would end the writer's session, though it is caught here
        SET jit = off  -- compiling takes longer than the statements, whatever cost the writer's settings give them
        -- How values are written as text; docs/database.md names these.
        SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET extra_float_digits = '1'
        SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' SET quote_all_identifiers = off
        -- How texts are read.
        SET array_nulls = on SET standard_conforming_strings = on AS $function$
        #variable_conflict use_variable
        DECLARE
            at timestamptz := clock_timestamp();
            slot smallint;
            lacks_rows boolean;  -- the trigger has no transition tables, or may have none
            sampled integer;  -- the number of old rows: 0, 1, or 2 for more
            planned_for text;
            is_recorded boolean;
            touched bigint;
            options json;
            is_dynamic boolean;
            types_test text;
            schema_name text;
            table_name text;
            operation text;
            operations text[];
            old_values refcursor;
            context text;
            has_lost boolean;
            writers_lastval bigint;
            reason text;
            drawn bigint;
            awake_ms double precision;
            may_notify boolean;
        BEGIN
            -- Without transition tables these names would mean relations in the writer's temporary schema, and reading a
            -- view there would run its code as the journal's owner. (In two steps: the first needs no plan.)
            IF pg_my_temp_schema() <> 0
                AND (to_regclass('pg_temp.new_rows') IS NOT NULL OR to_regclass('pg_temp.old_rows') IS NOT NULL)
            THEN
                -- Above READ COMMITTED the catalog shows the trigger as it was, perhaps before it was replaced.
                lacks_rows := (TG_LEVEL = 'STATEMENT' OR TG_NARGS = 0) AND TG_OP <> 'TRUNCATE' AND NOT (
                    current_setting('transaction_isolation') = 'read committed' AND EXISTS (
                        SELECT FROM pg_trigger AS t
                        WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME
                          AND (TG_OP = 'INSERT' OR t.tgoldtable = 'old_rows') AND (TG_OP = 'DELETE' OR t.tgnewtable = 'new_rows')
                    )
                );
            END IF;
            BEGIN
                IF TG_OP = 'UPDATE' THEN
                    IF TG_NARGS = 0 AND lacks_rows IS NOT TRUE THEN
                        PERFORM FROM old_rows LIMIT 2;
                        GET DIAGNOSTICS sampled = ROW_COUNT;
                        IF sampled = 0 AND pg_partition_root(TG_RELID) IS NULL THEN
                            RETURN NULL;
                        END IF;
                    END IF;
                END IF;
                writers_lastval := lastval();
            EXCEPTION WHEN OTHERS THEN
                NULL;  -- the session has no number, the journal's owner no right on that sequence, or the trigger no old rows
            END;
            %s
            BEGIN
                <put_back_lastval>
                -- A transaction sends one NOTIFY. So a trigger that fires for each row decides once; a rollback to a savepoint
                -- reverts the setting together with the NOTIFY.
                IF pg_trigger_depth() = 1 OR current_setting('changefeed.notified', true) IS DISTINCT FROM 'on' THEN
                    -- For most sessions the same as changefeed.may_notify(): none of its conditions applies, and a call would cost
                    -- more. In steps, since each transaction prepares again every expression that it evaluates.
                    awake_ms := pg_sequence_last_value('changefeed.awake_until') - date_part('epoch', clock_timestamp()) * 1000;
                    IF awake_ms BETWEEN 0 AND 2000 THEN
                        NULL;  -- the lease holds
                    ELSIF concat(
                        current_setting('max_prepared_transactions'), current_setting('lock_timeout'),
                        current_setting('statement_timeout'), current_setting('transaction_timeout', true),
                        ' ', current_setting('changefeed.notify', true)
                    ) IN ('000 ', '0000 ') THEN
                        may_notify := pg_notification_queue_usage() < 0.05;
                    ELSE
                        may_notify := changefeed.may_notify();
                    END IF;
                END IF;
            EXCEPTION WHEN OTHERS THEN
                NULL;  -- one of these was dropped, or its rights were revoked
            END;
            IF may_notify THEN
                NOTIFY changefeed;
                IF pg_trigger_depth() > 1 THEN
                    PERFORM set_config('changefeed.notified', 'on', true);
                END IF;
            END IF;
            RETURN NULL;
        END
        $function$
    $frame$, '<put_back_lastval>', put_back_lastval);
    safe constant text := $safe$
        BEGIN
            %s
        EXCEPTION WHEN transaction_rollback THEN
            RAISE;  -- a serialization failure or a deadlock concerns the writers; the transaction has to fail anyway
        WHEN OTHERS THEN
            reason := SQLERRM;
            BEGIN
                RAISE WARNING 'changefeed: a change of %%.%% was not recorded: %%', TG_TABLE_SCHEMA, TG_TABLE_NAME, reason;
            EXCEPTION WHEN OTHERS THEN
                NULL;  -- the writer's client_encoding has no text for it; PostgreSQL's log has it
            END;
            BEGIN
                INSERT INTO changefeed.journal (slot, at, action, schema_name, table_name, row_count)
                VALUES (
                    coalesce(pg_sequence_last_value('changefeed.slot'), 0), at, 'L',
                    coalesce(schema_name, TG_TABLE_SCHEMA), coalesce(table_name, TG_TABLE_NAME), touched
                );
            EXCEPTION WHEN transaction_rollback THEN
                RAISE;
            WHEN OTHERS THEN
                BEGIN
                    -- Set to its own value: otherwise a crash would advance it by up to 32, as if that many were lost.
                    PERFORM setval('changefeed.losses', nextval('changefeed.losses'));
                EXCEPTION WHEN OTHERS THEN
                    NULL;  -- not even the sequence can be written; only the warning remains
                END;
            END;
        END;
    $safe$;
BEGIN
    EXECUTE format(frame, 'record', format(safe, body));
    EXECUTE format(frame, 'record_strict', body);
    -- The same for other functions that draw ids; the above does not call it, since a call costs more.
    EXECUTE format($frame$
        CREATE OR REPLACE FUNCTION changefeed.put_back_lastval(writers_lastval bigint)
        RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
        DECLARE
            drawn bigint;
        BEGIN
            %s
        END
        $function$
    $frame$, put_back_lastval);
END
$make$;

-- Whether this statement may be a MERGE that has moved rows of `target` to other partitions: PostgreSQL puts neither their old
-- nor their new versions into the transition tables of an UPDATE (seen up to 18.4). A trigger cannot see that it fires for a
-- MERGE, except by the statement's text, if that is known. And a row that moves is deleted in one partition and inserted into
-- another: PostgreSQL counts both, and keeps the counts for some time after the transaction. In doubt the answer is yes.
CREATE OR REPLACE FUNCTION changefeed.may_have_moved(target oid, context text)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    -- The callers of the statement, innermost first; null if there are none. (The context's first line is the trigger's own.)
    callers constant text := substr(context, nullif(strpos(context, chr(10)), 0) + 1);
    is_current constant boolean := current_setting('transaction_isolation') = 'read committed';
    statement text;  -- null if it is unknown
    is_script boolean;
    -- A script of many statements is one text, which each of them would search from its beginning. So it is searched once, and
    -- the session keeps the result in a sequence to which the writer has no right.
    script constant bigint := extract(epoch FROM statement_timestamp()) * 1000000;
    searched bigint;
    may_merge boolean;
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RETURN false;
    END IF;
    statement := CASE
        WHEN callers IS NULL THEN current_query()
        WHEN starts_with(callers, 'SQL statement "') THEN substr(callers, 16)  -- the usual case of the function below
        ELSE changefeed.called_statement(callers)
    END;
    is_script := callers IS NULL AND octet_length(statement) > 10000;
    IF NOT is_script AND statement COLLATE "C" !~* $re$\y(?:merge|execute)\y$re$ THEN
        RETURN false;
    END IF;
    IF current_setting('track_counts')::boolean AND (
        SELECT bool_or(is_source) AND bool_or(is_target) AND count(*) > 1
        FROM (
            SELECT m.member FROM changefeed.members(ARRAY[target]) AS m
            UNION
            -- An old snapshot does not show newer partitions; but the partitions that were written to are locked.
            SELECT l.relation FROM pg_locks AS l
            WHERE NOT is_current AND l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
              AND pg_partition_root(l.relation) = pg_partition_root(target)
        ) AS m, LATERAL (
            SELECT pg_stat_get_xact_tuples_deleted(m.member) > 0, pg_stat_get_xact_tuples_inserted(m.member) > 0
        ) AS counted (is_source, is_target)
        WHERE is_source OR is_target
    ) IS NOT TRUE THEN
        RETURN false;
    END IF;
    IF statement IS NULL THEN
        RETURN true;
    ELSIF NOT is_script THEN
        RETURN changefeed.may_merge(statement, CASE WHEN is_current THEN target END);
    END IF;
    BEGIN
        searched := currval('changefeed.searched');
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        NULL;  -- the session has searched no text yet
    END;
    IF searched / 2 = script THEN
        RETURN searched % 2 = 1;
    END IF;
    may_merge := changefeed.may_merge(statement, NULL);
    PERFORM setval('changefeed.searched', 2 * script + may_merge::integer);
    RETURN may_merge;
END
$function$;

-- The text of the statement that the first of these callers has called, followed by the context's lines about the others. Null
-- if the context does not have it: for a statement in a function in SQL, and for one whose rows are fetched from a cursor, as a
-- FOR loop does. Of messages in another language only the words before a statement's text are known.
CREATE OR REPLACE FUNCTION changefeed.called_statement(callers text)
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    introduction text;
    sample text;
BEGIN
    IF callers ~ $re$^[^"\n]*[$]1 = $re$ THEN
        RETURN current_query();  -- no caller: these are the parameters, which log_parameter_max_length_on_error adds
    END IF;
    EXECUTE 'SELECT changefeed.own_context()' INTO sample;
    sample := substr(sample, strpos(sample, chr(10)) + 1);
    introduction := nullif(left(sample, strpos(sample, 'SELECT changefeed.own_context()') - 1), '');
    RETURN CASE WHEN starts_with(callers, introduction) THEN substr(callers, length(introduction) + 1) END;
END
$function$;

CREATE OR REPLACE FUNCTION changefeed.own_context()
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    context text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    RETURN context;
END
$function$;

-- Whether a text has a MERGE into the table (if that is null: into any), or executes what may be one. Words within literals,
-- quoted names and comments do not count; if these are hard to recognize, the answer is yes. Only ASCII letters are compared,
-- as PostgreSQL does for keywords, whatever the database's collation.
CREATE OR REPLACE FUNCTION changefeed.may_merge(statement text, target oid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    -- A backslash before a quote; a comment in a comment; a $ beside a letter that is not of ASCII.
    is_hard constant text := $re$\\'|/[*](?:[^*]|[*]+[^*/])*/[*]|[^\x01-\x7f][\w$]*[$]|[$]\w*[^\x01-\x7f]$re$;
    -- EXECUTE where a statement can begin: not in GRANT EXECUTE, a trigger's EXECUTE FUNCTION name(), or a caller's line.
    executes constant text :=
        $re$(?:^|[;)]|\y(?:as|explain|analy[sz]e|verbose))\s*execute\y(?!\s+(?:function|procedure)\s+[\w.$"]+\s*[(])$re$;
    merges constant text := $re$\ymerge\s+into\y\s*(?:only\y[\s(]*)?([^\s.*();,]+(?:\s*[.]\s*[^\s.*();,]+)*)?$re$;
    quoted constant text := $re$|(?<![\w$])[$]%1$s[$](?:[^$]|[$](?!%1$s[$]))*[$]%1$s[$]$re$;
    left_out text := $re$'[^']*'|--[^\r\n]*|/[*](?:[^*]|[*]+[^*/])*[*]+/$re$;
    words text;
BEGIN
    IF statement COLLATE "C" !~* $re$\y(?:merge|execute)\y$re$ THEN
        RETURN false;
    ELSIF statement COLLATE "C" ~ is_hard THEN
        RETURN true;
    END IF;
    SELECT concat(left_out, string_agg(DISTINCT format(quoted, tag[1]), '')) INTO left_out
    FROM regexp_matches(statement COLLATE "C", $re$[$]((?:[A-Za-z_]\w*)?)(?=[$])$re$, 'g') AS found (tag);
    words := regexp_replace(statement COLLATE "C", '("[^"]*")|' || left_out, $re$\1 $re$, 'g');
    words := regexp_replace(words COLLATE "C", '"[^"]*"', '"', 'g');
    RETURN words COLLATE "C" ~* executes OR EXISTS (
        SELECT FROM regexp_matches(words COLLATE "C", merges, 'gi') AS m (names)
        CROSS JOIN LATERAL (SELECT lower(substring(m.names[1] COLLATE "C" FROM $re$[^.\s]+$$re$) COLLATE "C")) AS n (name)
        WHERE n.name IS NULL OR target IS NULL
           OR n.name ~ $re$["]|[^\x01-\x7f]$re$
           OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = target AND c.relname = n.name::name)
           OR EXISTS (
               SELECT FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
               WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = target AND d.classid = 'pg_rewrite'::regclass
           )
    );
END
$function$;

-- A trigger on each partition, with a condition that is never true. Without one, a MERGE records the row that it inserted last
-- instead of the rows that it updates next (seen up to 18.4): with one, PostgreSQL keeps no tuple in the root's form from one
-- row to the next.
CREATE OR REPLACE FUNCTION changefeed.never() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN NEW;
END
$function$;

-- Whether the transaction should end with a NOTIFY. A NOTIFY only wakes the server, which reads every few seconds anyway, and
-- every few milliseconds while a lease holds (see journal.sql). During a lease none is sent, because transactions that notify
-- commit one after another. PostgreSQL may also fail a COMMIT because of the NOTIFY:
-- - if the queue of notifications is full. That shows only at the COMMIT, so no more are sent long before the queue is full.
-- - if the transaction in front of it commits more slowly (waiting for a standby, say) than this session's timeout for locks or
--   statements.
-- A transaction with a NOTIFY cannot be prepared for a two-phase commit: where that is enabled, changefeed.notify decides.
CREATE OR REPLACE FUNCTION changefeed.may_notify()
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN coalesce(
            pg_sequence_last_value('changefeed.awake_until') - date_part('epoch', clock_timestamp()) * 1000 NOT BETWEEN 0 AND 2000,
            true
        )
        AND coalesce(
            nullif(current_setting('changefeed.notify', true), ''),
            CASE current_setting('max_prepared_transactions') WHEN '0' THEN 'on' END
        ) = 'on'
        AND coalesce(
            least(
                nullif(current_setting('lock_timeout'), '0')::interval,
                nullif(current_setting('statement_timeout'), '0')::interval,
                nullif(current_setting('transaction_timeout', true), '0')::interval
            ) >= CASE current_setting('synchronous_standby_names') WHEN '' THEN '2 s'::interval ELSE '10 s' END,
            true
        )
        AND pg_notification_queue_usage() < 0.05;
END
$function$;

-- A cursor's next value. (A join by row_number() takes longer, both for one row and for a million.)
CREATE OR REPLACE FUNCTION changefeed.next_value(old_values refcursor)
RETURNS json LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    value json;
BEGIN
    FETCH old_values INTO value;
    RETURN value;
END
$function$;
