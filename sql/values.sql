-- A row's values as JSON: each as to_json gives it, without running code of those who own the types or the table.
--
-- to_json uses the cast to json that the owner of a type may make for it, also deep within a value: in an array, a domain, a
-- composite type. It would run here as the journal's owner. So only values of trusted types go to to_json; others are
-- taken apart down to parts whose output functions can be used, since only superusers can create these. For the same reason a
-- cast is used only of a base type, such as an extension's hstore, and never of an enum or a range: so it makes no difference whether a
-- value was taken apart.
--
-- Between the check of a type and its use, and at REPEATABLE READ since the snapshot, others can change what a name means, but not
-- what an oid does. So a value is checked again by the oid of its type, in the expression that uses it.

-- A cast stays when its function, or the type, gets another owner, or that owner is no superuser any more. So both owners count.

-- Whether to_json, for a value of this type, runs only code of superusers and of the journal's owner, and uses no cast of an enum
-- or a range.
CREATE OR REPLACE FUNCTION changefeed.trusts(type oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    is_trusted boolean;
    has_parts boolean;
BEGIN
    IF type < 16384 THEN
        RETURN true;  -- PostgreSQL's own
    END IF;
    SELECT
        (pg_get_userbyid(t.typowner) = current_user OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = t.typowner))
        AND NOT changefeed.has_untrusted_cast(t.oid, t.typtype),
        t.typtype IN ('d', 'c', 'r', 'm') OR t.typelem >= 16384
    INTO is_trusted, has_parts
    FROM pg_type AS t WHERE t.oid = type;
    IF is_trusted IS NOT TRUE THEN
        RETURN false;  -- also where there is none
    ELSIF NOT has_parts THEN
        RETURN true;
    END IF;
    RETURN (
        -- UNION: each type once, however often and deep it is within the others.
        WITH RECURSIVE part (type) AS (
            SELECT type
            UNION
            SELECT inner_part.type
            FROM part AS p JOIN pg_type AS t ON t.oid = p.type CROSS JOIN LATERAL (
                SELECT a.atttypid FROM pg_attribute AS a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'c'
                UNION ALL
                SELECT r.rngsubtype FROM pg_range AS r WHERE t.typtype IN ('r', 'm') AND t.oid IN (r.rngtypid, r.rngmultitypid)
                UNION ALL
                SELECT t.typbasetype
                UNION ALL
                SELECT t.typelem
            ) AS inner_part (type)
            WHERE inner_part.type >= 16384
        )
        SELECT bool_and(
            (r.rolsuper OR r.rolname = current_user) AND NOT changefeed.has_untrusted_cast(t.oid, t.typtype)
        )
        FROM part AS p JOIN pg_type AS t ON t.oid = p.type JOIN pg_roles AS r ON r.oid = t.typowner
    );
END
$function$;

-- Whether to_json would use a cast of this type that it must not: any of an enum or a range, or one whose function belongs to others.
CREATE OR REPLACE FUNCTION changefeed.has_untrusted_cast(type oid, kind "char")
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_cast AS c LEFT JOIN (pg_proc AS p JOIN pg_roles AS r ON r.oid = p.proowner) ON p.oid = c.castfunc
        WHERE c.castsource = type AND c.casttarget = 'json'::regtype
          AND (kind IN ('e', 'r', 'm') OR NOT (r.rolsuper OR r.rolname = current_user))
    );
END
$function$;

-- Whether the cast to json that the catalog shows is still there. Above READ COMMITTED the type may have got another owner since, who
-- may have replaced it. (Without a cast, to_json gives a value's text.)
CREATE OR REPLACE FUNCTION changefeed.has_json_cast_now(type oid)
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_cast AS c WHERE c.castsource = type AND c.casttarget = 'json'::regtype
          AND pg_describe_object('pg_cast'::regclass, c.oid, 0) IS NOT NULL
    );
END
$function$;

-- Whether all columns of a table have PostgreSQL's own types, for which only a superuser can create a cast. The setting
-- changefeed.planned_for names the table.
--
-- Not immutable, but declared so: it is then evaluated when a statement is planned, and costs nothing when the plan is used.
-- That is correct only in a statement that reads a transition table of that very table, because PostgreSQL plans such a
-- statement again after each change of the table's columns. Code that plans one sets the setting immediately before, so that no
-- other code can have set it. The plan outlives the transaction, so the answer is false if the snapshot of the catalog may be old.
CREATE OR REPLACE FUNCTION changefeed.has_builtin_types()
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN changefeed.has_builtin_types_now();
END
$function$;

-- The same, by the catalog as it is now, since this function is VOLATILE. A STABLE one would see the catalog as of the writer's
-- statement, which includes the actions of foreign keys; the columns may have changed since that began.
CREATE OR REPLACE FUNCTION changefeed.has_builtin_types_now()
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN current_setting('transaction_isolation') = 'read committed' AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = current_setting('changefeed.planned_for')::oid AND a.attnum > 0 AND a.atttypid >= 16384
    );
END
$function$;

-- A statement that returns whether the rows of a transition table have other types now than the catalog shows. Null if the catalog does
-- not show only PostgreSQL's own types, for which no other user can create a cast. (No cast is called for a null.)
CREATE OR REPLACE FUNCTION changefeed.builtin_types_test(target oid, transition_table text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        SELECT format(
            'SELECT ROW(%s) <> ROW(%s) OR (SELECT count(*) FROM json_object_keys(row_to_json(n.*))) <> %s '
            'FROM (SELECT r.* FROM (SELECT) AS one LEFT JOIN %s AS r ON false OFFSET 0) AS n (%s)',
            string_agg(format('pg_typeof(n.c%s)::oid', a.place), ', '), string_agg(a.atttypid::text, ', '), count(*),
            transition_table, string_agg('c' || a.place, ', ')
        )
        FROM (
            SELECT a.atttypid, row_number() OVER (ORDER BY a.attnum) AS place
            FROM pg_attribute AS a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
        ) AS a
        HAVING max(a.atttypid) < 16384
    );
END
$function$;

-- The names of a table's columns as of now, by number; a dropped one has a name that says so. Above READ COMMITTED every query sees the
-- catalog as of the transaction's snapshot; this function of PostgreSQL's sees it as of now. No statement may name the table or its
-- row type: its schema can get another name at any moment, and another schema its name.
CREATE OR REPLACE FUNCTION changefeed.columns_now(target oid)
RETURNS text[] LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    names text[] := '{}';
    name text;
BEGIN
    FOR number IN 1..1600 LOOP
        name := (pg_identify_object_as_address('pg_class'::regclass, target, number)).object_names[3];
        EXIT WHEN name IS NULL;
        names := names || name;
    END LOOP;
    RETURN names;
END
$function$;

-- A table's name as of now.
CREATE OR REPLACE FUNCTION changefeed.name_now(target oid, OUT schema_name text, OUT table_name text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    SELECT i.object_names[1], i.object_names[2] INTO schema_name, table_name
    FROM pg_identify_object_as_address('pg_class'::regclass, target, 0) AS i;
END
$function$;

-- Stands for a value whose type, or whose part's type, is another one now.
CREATE OR REPLACE FUNCTION changefeed.refuse_column()
RETURNS json LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RAISE EXCEPTION 'its columns have changed since the snapshot of this transaction';
END
$function$;

-- Raises an error if a table's columns are not those of the catalog that the transaction sees, or one is computed in another way.
-- - A dropped column's number is never used again, and no column becomes a virtual one: the same number and name is the same column.
-- - A new expression is another row of pg_attrdef. While that row exists, no column that it uses can get another type.
-- The statement that is being recorded locks the table, so nothing of this changes before it ends.
CREATE OR REPLACE FUNCTION changefeed.check_columns(target oid)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF changefeed.columns_now(target) IS DISTINCT FROM ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = target AND a.attnum > 0 ORDER BY a.attnum
    ) OR EXISTS (
        SELECT FROM pg_attribute AS a JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = target AND a.attgenerated = 'v'
          AND (pg_identify_object_as_address('pg_attrdef'::regclass, d.oid, 0)).object_names IS NULL
    ) THEN
        PERFORM changefeed.refuse_column();
    END IF;
END
$function$;

-- Whether a type has too many parts, or too many levels of them, to be taken apart. A part is counted each time it occurs: a type
-- of two fields, each of a type of two fields, and so on, doubles with each level.
CREATE OR REPLACE FUNCTION changefeed.has_too_many_parts(type oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        WITH RECURSIVE part (type, depth) AS (
            SELECT type, 0
            UNION ALL
            SELECT inner_part.type, p.depth + 1
            FROM part AS p JOIN pg_type AS t ON t.oid = p.type CROSS JOIN LATERAL (
                SELECT a.atttypid FROM pg_attribute AS a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'c'
                UNION ALL
                SELECT t.typbasetype WHERE t.typtype = 'd'
                UNION ALL
                SELECT t.typelem WHERE t.typelem >= 16384
            ) AS inner_part (type)
            WHERE p.type >= 16384
        )
        -- LIMIT ends the recursion: no more parts are looked for than are counted.
        SELECT count(*) > 500 OR max(p.depth) > 12 FROM (SELECT depth FROM part LIMIT 501) AS p
    );
END
$function$;

-- Makes an expression whose JSON is that of `value`, an expression of this type. Without `is_certain` its type, or that of a part, may
-- have changed: then the expression raises an error. A value with too many parts becomes its text.
CREATE OR REPLACE FUNCTION changefeed.json_value(value text, type oid, is_certain boolean, depth integer DEFAULT 0)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    shape pg_type;
    alias constant text := 'v' || depth;
    fields text;
    places text;
    names text[];
    has_too_many_parts boolean;
    expression text := 'CASE WHEN num_nonnulls(%1$s) = 1 THEN to_json(format(''%%s'', %1$s)) END';  -- its text
BEGIN
    IF is_certain AND changefeed.trusts(type) THEN
        RETURN value;
    END IF;
    has_too_many_parts := depth = 0 AND type >= 16384 AND changefeed.has_too_many_parts(type);
    SELECT * INTO shape FROM pg_type AS t WHERE t.oid = type;
    WHILE shape.typtype = 'd' LOOP  -- whose base type never changes
        SELECT * INTO shape FROM pg_type AS t WHERE t.oid = shape.typbasetype;
    END LOOP;
    -- num_nonnulls, because a composite value whose fields are all null IS NULL, but is not null itself.
    IF shape.typtype = 'c' AND NOT has_too_many_parts THEN
        -- Its attributes by position, and without a certain type: the type's owner may rename or replace them at any moment.
        -- If no attribute has the name, (value).name calls the function of that name, and with it the owner's casts.
        SELECT
            string_agg(
                format(
                    '%s AS %I', changefeed.json_value(format('f%s.a%s', depth, a.place), a.atttypid, false, depth + 1), a.attname
                ),
                ', ' ORDER BY a.place
            ),
            string_agg('a' || a.place, ', ' ORDER BY a.place),
            array_agg(a.attname::text ORDER BY a.place)
        INTO fields, places, names
        FROM (
            SELECT a.attname, a.atttypid, row_number() OVER (ORDER BY a.attnum) AS place
            FROM pg_attribute AS a WHERE a.attrelid = shape.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS a;
        -- The names are compared with those of a value of nulls, for which no cast is called.
        expression := format(
            CASE WHEN fields IS NULL THEN 'CASE WHEN num_nonnulls(%1$s) = 1 THEN json_build_object() END'
            ELSE 'CASE WHEN num_nonnulls(%1$s) = 1 THEN CASE WHEN ARRAY('
                 'SELECT json_object_keys(row_to_json(n%4$s.*)) FROM (SELECT (CASE WHEN false THEN %1$s END).*) AS n%4$s'
                 ') = %6$L THEN ('
                 'SELECT row_to_json(%2$I.*) FROM (SELECT %3$s FROM (SELECT (%1$s).*) AS f%4$s (%5$s)) AS %2$I'
                 ') ELSE changefeed.refuse_column() END END'
            END,
            value, alias, fields, depth, places, names
        );
    -- With a cast to tsvector, for which there is an unnest() too, no call of unnest() could be resolved. Then it becomes its text.
    ELSIF shape.typelem >= 16384 AND EXISTS (SELECT FROM pg_type AS t WHERE t.typarray = shape.oid)
        AND NOT EXISTS (SELECT FROM pg_cast AS c WHERE c.castsource = shape.oid AND c.casttarget = 'tsvector'::regtype) THEN
        expression := format(
            'CASE WHEN num_nonnulls(%1$s) = 1 THEN changefeed.json_array('
            'ARRAY(SELECT %3$s FROM (SELECT unnest(%1$s) AS value) AS %2$I), '
            -- With the names of tables only, which no column of that name hides.
            '(SELECT ARRAY(SELECT array_length(%2$I.whole, d.number) FROM generate_series(1, array_ndims(%2$I.whole)) AS d (number)) '
            'FROM (SELECT %1$s AS whole) AS %2$I)) END',
            value, alias, CASE WHEN has_too_many_parts THEN format(expression, alias || '.value')
            ELSE changefeed.json_value(alias || '.value', shape.typelem, false, depth + 1) END
        );
    ELSIF shape.typtype IN ('b', 'r', 'm') AND shape.oid < 16384
        OR shape.typtype = 'b' AND changefeed.trusts(shape.oid) AND changefeed.has_json_cast_now(shape.oid) THEN
        expression := format('to_json(%s)', value);
    ELSE
        expression := format(expression, value);
    END IF;
    RETURN format('CASE WHEN pg_typeof(%s)::oid = %s THEN %s ELSE changefeed.refuse_column() END', value, type, expression);
END
$function$;

-- An array as JSON: its elements in their order, and how many there are in each dimension.
CREATE OR REPLACE FUNCTION changefeed.json_array(elements json[], lengths integer[])
RETURNS json LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    FOR dimension IN REVERSE cardinality(lengths)..2 LOOP
        elements := ARRAY(
            SELECT array_to_json(array_agg(e.element ORDER BY e.place))
            FROM unnest(elements) WITH ORDINALITY AS e (element, place)
            GROUP BY (e.place - 1) / lengths[dimension] ORDER BY (e.place - 1) / lengths[dimension]
        );
    END LOOP;
    RETURN array_to_json(elements);
END
$function$;

-- The position of a column in the JSON of its row. A partition's columns take their root's order, which may differ.
CREATE OR REPLACE FUNCTION changefeed.place(a pg_attribute)
RETURNS smallint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN coalesce(
        (
            SELECT r.attnum FROM pg_attribute AS r
            WHERE r.attrelid = pg_partition_root(a.attrelid) AND r.attname = a.attname AND r.attnum > 0
        ),
        a.attnum
    );
END
$function$;

-- Raises an error if a virtual generated column, except those of `omit`, uses what is not PostgreSQL's own. Its expression, a text, would
-- be parsed again as the journal's owner, and an operator that fits better may have been created since.
CREATE OR REPLACE FUNCTION changefeed.check_expressions(target oid, omit text[])
RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    doubtful text;
BEGIN
    SELECT a.attname INTO doubtful
    FROM pg_attribute AS a JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    JOIN pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
    WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped AND a.attname <> ALL (omit)
      AND p.refclassid IN ('pg_operator'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass) AND p.refobjid >= 16384
    LIMIT 1;
    IF doubtful IS NOT NULL THEN
        RAISE EXCEPTION 'the virtual generated column % uses an operator, a function or a type that is not PostgreSQL''s own',
            quote_ident(doubtful)
            USING HINT = format('Leave it out: changefeed.watch(%L, omit => ARRAY[%L])', target::regclass, doubtful);
    END IF;
END
$function$;

-- A column of `omit` or `hash` that is gone: dropped, or renamed, whether or not another column has its name now. Then no value may
-- leave the table, since it might be that column's. The same holds in the restored table, if one was gone when it was dumped. `options` are a trigger's argument, or those of watched().
CREATE OR REPLACE FUNCTION changefeed.gone_column(target oid, options json)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        SELECT h.name
        FROM (
            SELECT json_array_elements_text(options -> 'omit') UNION ALL SELECT json_array_elements_text(options -> 'hash')
        ) AS h (name)
        WHERE NOT EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = target AND a.attname = h.name AND a.attnum > 0 AND NOT a.attisdropped
              -- An earlier version's trigger has names only, until refresh() adds the numbers.
              AND (options -> 'numbers' IS NULL OR a.attnum = (options -> 'numbers' ->> h.name)::integer)
              AND coalesce((options ->> 'gone_in')::oid = target, true)
        )
        LIMIT 1
    );
END
$function$;

-- A table's columns as a list for SELECT: without those of `omit`, with hashes for those of `hash`, and with virtual generated
-- columns computed, because a trigger sees them as null.
CREATE OR REPLACE FUNCTION changefeed.column_list(target oid, options json)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    omit text[] := ARRAY(SELECT json_array_elements_text(options -> 'omit'));
    hash text[] := ARRAY(SELECT json_array_elements_text(options -> 'hash'));
    -- Above READ COMMITTED the catalog is an old one: the table, or a type, may have got an untrusted owner since.
    is_certain constant boolean := current_setting('transaction_isolation') = 'read committed';
    root_columns text[];
    gone constant text := CASE WHEN cardinality(omit || hash) > 0 THEN changefeed.gone_column(target, options) END;
BEGIN
    IF gone IS NOT NULL THEN
        RAISE EXCEPTION 'the column % that was to be left out or hashed is gone', quote_ident(gone)
            USING HINT = 'Call changefeed.watch again.';
    END IF;
    PERFORM changefeed.check_expressions(target, omit);
    IF NOT is_certain THEN
        PERFORM changefeed.check_columns(target);
        root_columns := changefeed.columns_now(nullif(pg_partition_root(target), target));
    END IF;
    RETURN (
        SELECT string_agg(
            CASE
                WHEN a.attname = ANY (hash)
                    THEN format('%s AS %I', changefeed.hashed_value(target, a.attname, a.atttypid, v.value), a.attname)
                WHEN a.attgenerated = 'v' THEN format('%s AS %I', v.value, a.attname)
                ELSE format('%s AS %I', changefeed.json_value(v.value, a.atttypid, is_certain), a.attname)
            END,
            ', ' ORDER BY coalesce(array_position(root_columns, a.attname::text), changefeed.place(a))
        )
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum,
            LATERAL (
                -- Its expression, as a text, lacks the cast to the column's type, which is always one of PostgreSQL's own.
                SELECT CASE WHEN a.attgenerated = 'v'
                    THEN format('CAST((%s) AS %s)', pg_get_expr(d.adbin, d.adrelid), format_type(a.atttypid, a.atttypmod))
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
