-- Creates, changes and drops triggers without keeping writers waiting: in short attempts, with pauses in which writers go on.

-- The longest wait for locks of one attempt, in milliseconds: writers queue up behind a waiting session. It is shorter than a usual
-- lock_timeout of writers, and than deadlock_timeout, after which PostgreSQL would abort a writer that holds the awaited lock and
-- itself waits for one of this session.
CREATE OR REPLACE FUNCTION changefeed.lock_wait_ms()
RETURNS integer LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT least(8, greatest(setting::integer / 4, 1)) FROM pg_settings WHERE name = 'deadlock_timeout'
$function$;

-- Raises an error if triggers of ours that the catalog shows on a table or its partitions are not there any more, or have other
-- arguments. Above READ COMMITTED the catalog is that of the transaction's snapshot: triggers made by what it shows could undo what was
-- changed since, such as the columns to omit. pg_get_triggerdef shows a trigger as of now.
CREATE OR REPLACE FUNCTION changefeed.check_triggers(target oid)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off SET standard_conforming_strings = on AS $function$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') AND EXISTS (
        SELECT FROM changefeed.members(target) AS m (member) JOIN pg_trigger AS t ON t.tgrelid = m.member
        JOIN pg_proc AS p ON p.oid = t.tgfoid
        CROSS JOIN LATERAL (
            SELECT format('EXECUTE FUNCTION changefeed.%I(%s)', p.proname, CASE WHEN t.tgnargs > 0 THEN concat(
                $$'$$, replace(convert_from(rtrim(t.tgargs, decode('00', 'hex')), getdatabaseencoding()), $$'$$, $$''$$), $$'$$
            ) END)
        ) AS e (ending)
        WHERE t.tgfoid = ANY ((SELECT changefeed.recorders())::oid[]) AND t.tgparentid = 0
          AND right(pg_get_triggerdef(t.oid), length(e.ending)) IS DISTINCT FROM e.ending
          AND (changefeed.name_now(m.member)).table_name IS NOT NULL  -- not dropped with its table
    ) THEN
        RAISE EXCEPTION 'the triggers of % have changed since the snapshot of this transaction', target::regclass
            USING ERRCODE = 'serialization_failure', HINT = 'Try again in a new transaction.';
    END IF;
END
$function$;

-- Brings the triggers of a table and its partitions into order, or drops them if `options` is null. Returns whether anything
-- changed. If nothing has to change, it locks nothing. Fails with lock_not_available, and changes nothing, if it cannot get all
-- locks within `wait_ms` together.
CREATE OR REPLACE FUNCTION changefeed.try_to_apply(target oid, options jsonb, wait_ms integer)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
DECLARE
    squatter name;
    locks text[];
    statements text[];
    statement text;
    due timestamptz;
    members oid[];
    states jsonb[];
BEGIN
    PERFORM changefeed.check_triggers(target);
    SELECT t.tgname INTO squatter
    FROM changefeed.wanted_triggers(ARRAY[target], ARRAY[options]) AS w JOIN pg_trigger AS t ON t.tgrelid = w.member AND t.tgname = w.name
    WHERE t.tgfoid NOT IN (SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'changefeed'::regnamespace);
    IF squatter IS NOT NULL THEN
        RAISE EXCEPTION '% has a trigger % that is not one of the change feed''s', target::regclass, quote_ident(squatter)
            USING ERRCODE = 'duplicate_object', HINT = 'Give that trigger another name.';
    END IF;
    -- First the locks of the statements, in their order: so the states are those right before them, and not what a transaction left
    -- behind for which a statement waited. A role that has the right TRIGGER alone may lock a table by CREATE TRIGGER only, as a
    -- request does.
    WITH repairs AS MATERIALIZED (
        SELECT * FROM changefeed.repairs(ARRAY[target], ARRAY[options]) WITH ORDINALITY AS r (root, member, statement, number)
    )
    SELECT ARRAY(SELECT r.statement FROM repairs AS r ORDER BY r.number), ARRAY(SELECT DISTINCT r.member FROM repairs AS r), ARRAY(
        SELECT format('LOCK TABLE ONLY %s IN %s MODE', r.member::regclass, CASE
            WHEN bool_and(r.statement ~ '^CREATE ') THEN 'SHARE ROW EXCLUSIVE' ELSE 'ACCESS EXCLUSIVE'
        END)
        FROM repairs AS r WHERE options IS NOT NULL AND has_table_privilege(r.member, 'UPDATE, DELETE, TRUNCATE')
        GROUP BY r.member ORDER BY min(r.number)
    ) INTO statements, members, locks;
    due := clock_timestamp() + wait_ms * interval '1 millisecond';  -- from here on writers may wait
    FOREACH statement IN ARRAY locks || statements LOOP
        IF options IS NOT NULL AND states IS NULL AND statement <> ALL (locks) THEN
            SELECT array_agg(s.member), array_agg(s.state) INTO members, states
            FROM changefeed.states(ARRAY[target]) AS s WHERE s.member = ANY (members);
            IF locks = '{}' THEN
                due := clock_timestamp() + wait_ms * interval '1 millisecond';  -- nobody has waited yet
            END IF;
        END IF;
        PERFORM set_config(
            'lock_timeout', greatest(extract(epoch FROM due - clock_timestamp()) * 1000, 1)::integer::text, true
        );
        EXECUTE statement;
    END LOOP;
    IF statements <> '{}' AND options IS NOT NULL THEN
        PERFORM changefeed.note(target, members, states);
    END IF;
    RETURN statements <> '{}';
END
$function$;

-- Creates, as the schema's owner, the triggers of a table for which a request is made. One attempt.
CREATE OR REPLACE FUNCTION changefeed.grant_request(target regclass)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    asked jsonb;
BEGIN
    SELECT changefeed.argument(t.tgargs) INTO asked FROM pg_trigger AS t
    WHERE t.tgrelid = target AND t.tgfoid = 'changefeed.request()'::regprocedure AND t.tgname = 'changefeed_request' AND t.tgnargs > 0;
    IF asked IS NULL THEN
        RAISE EXCEPTION 'no call of changefeed.watch() asked to watch %', target
            USING ERRCODE = 'insufficient_privilege', HINT = 'Call changefeed.watch.';
    END IF;
    PERFORM changefeed.check_target(target);
    RETURN changefeed.try_to_apply(
        target,
        (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(asked) WHERE key IN ('omit', 'hash', 'numbers', 'limit', 'strict')),
        changefeed.lock_wait_ms()
    );
END
$function$;

-- Makes or drops the triggers of a table, in as many attempts as fit into this function's lock_timeout. Between two attempts
-- nothing is locked, so that writers go on, for several times as long as the attempt may have kept them waiting.
--
-- A role that may not call the recording functions, but has the right TRIGGER on the table, makes a request by a trigger that does
-- nothing; PostgreSQL lets only a role with that right create it. The schema's owner then creates the real triggers.
CREATE OR REPLACE FUNCTION changefeed.apply(target regclass, options jsonb)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET exit_on_error = off SET lock_timeout = '3s' AS $function$
DECLARE
    patience constant text := current_setting('lock_timeout');
    wait_ms integer := 1;  -- enough for a table that is not in use
    pause interval;
    deadline constant timestamptz := clock_timestamp() + (
        SELECT s.setting::integer * interval '1 millisecond' FROM pg_settings AS s WHERE s.name = 'lock_timeout'
    );
BEGIN
    LOOP
        BEGIN
            IF options IS NULL OR has_function_privilege('changefeed.record()', 'EXECUTE') THEN
                RETURN changefeed.try_to_apply(target, options, wait_ms);
            END IF;
            IF EXISTS (
                SELECT FROM pg_trigger AS t
                WHERE t.tgrelid = target AND t.tgname = 'changefeed_request' AND t.tgfoid <> 'changefeed.request()'::regprocedure
            ) THEN
                RAISE EXCEPTION '% has a trigger changefeed_request that is not one of the change feed''s', target
                    USING ERRCODE = 'duplicate_object', HINT = 'Give that trigger another name.';
            END IF;
            PERFORM set_config('lock_timeout', wait_ms::text, true);
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER changefeed_request BEFORE TRUNCATE ON %s FOR EACH STATEMENT WHEN (false) '
                'EXECUTE FUNCTION changefeed.request(%L)',
                target, options
            );
            RETURN changefeed.grant_request(target);
        EXCEPTION WHEN lock_not_available THEN
            pause := wait_ms * (4 + 4 * random()) * interval '1 millisecond';
            IF clock_timestamp() + pause > deadline THEN
                RAISE EXCEPTION 'the triggers of % could not be %: it, or a partition of it, was in use for %',
                    target, CASE WHEN options IS NULL THEN 'dropped' ELSE 'changed' END, patience
                    USING ERRCODE = 'lock_not_available',
                    HINT = 'Nothing was changed. Try again when the transactions that hold it are over.';
            END IF;
        END;
        PERFORM pg_sleep(extract(epoch FROM pause));
        wait_ms := least(2 * wait_ms, changefeed.lock_wait_ms());
    END LOOP;
END
$function$;
