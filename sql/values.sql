-- A row's values as JSON: each as to_json gives it, without running code of those who own the types or the table.
--
-- to_json uses the cast to json that the owner of a type may make for it, also deep within a value: in an array, a domain, a
-- composite type. It would run here as the journal's owner. So only values of trusted types go to to_json; others are
-- taken apart down to parts whose output functions can be used, since only superusers can create these.

-- Whether to_json, for a value of this type, runs only code of superusers and of the journal's owner.
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
        pg_get_userbyid(t.typowner) = current_user OR (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = t.typowner),
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
        SELECT bool_and(r.rolsuper OR r.rolname = current_user)
        FROM part AS p JOIN pg_type AS t ON t.oid = p.type JOIN pg_roles AS r ON r.oid = t.typowner
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

-- Whether the columns of a table are what the catalog says. At REPEATABLE READ the catalog is the one from before an ALTER
-- TABLE that was committed since, by which the table's owner may have given a column a type of their own.
CREATE OR REPLACE FUNCTION changefeed.trusts_columns(target oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN current_setting('transaction_isolation') = 'read committed' OR coalesce(
        (
            SELECT r.rolsuper OR r.rolname = current_user
            FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner WHERE c.oid = target
        ),
        false
    );
END
$function$;

-- A type that has the same texts as this one and runs no user's code: the type itself, or the one below its arrays and domains,
-- if that is PostgreSQL's own or a trusted extension's; otherwise text. The extension's schema must be trusted too, or its
-- owner could put another type in its place.
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
        SELECT CASE
            WHEN e.oid < 16384 THEN format_type(e.oid, -1)
            WHEN e.typtype = 'b' AND changefeed.trusts(e.oid) AND (
                SELECT r.rolsuper OR r.rolname = current_user
                FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace JOIN pg_roles AS r ON r.oid = n.nspowner
                WHERE t.oid = e.oid
            ) THEN format_type(e.oid, -1)
            ELSE 'text'
        END || e.brackets
        FROM element AS e WHERE e.typtype <> 'd' AND (e.oid < 16384 OR e.typelem = 0)
    );
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

-- Makes an expression whose JSON is that of `value`, an expression of this type. Without `is_certain` its type may have changed.
-- A value with too many parts becomes its text.
CREATE OR REPLACE FUNCTION changefeed.json_value(value text, type oid, is_certain boolean, depth integer DEFAULT 0)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    shape pg_type;
    alias constant text := 'v' || depth;
    fields text;
    places text;
BEGIN
    IF is_certain AND changefeed.trusts(type) THEN
        RETURN value;
    END IF;
    SELECT * INTO shape FROM pg_type AS t WHERE t.oid = type;
    -- num_nonnulls, because a composite value whose fields are all null IS NULL, but is not null itself.
    IF depth = 0 AND changefeed.has_too_many_parts(type) THEN
        NULL;
    ELSIF shape.typtype = 'd' THEN
        RETURN changefeed.json_value(value, shape.typbasetype, is_certain, depth);
    ELSIF shape.typtype = 'c' THEN
        -- Its attributes by position, and without a certain type: the type's owner may rename or replace them at any moment.
        -- If no attribute has the name, (value).name calls the function of that name, and with it the owner's casts.
        SELECT
            string_agg(
                format(
                    '%s AS %I', changefeed.json_value(format('f%s.a%s', depth, a.place), a.atttypid, false, depth + 1), a.attname
                ),
                ', ' ORDER BY a.place
            ),
            string_agg('a' || a.place, ', ' ORDER BY a.place)
        INTO fields, places
        FROM (
            SELECT a.attname, a.atttypid, row_number() OVER (ORDER BY a.attnum) AS place
            FROM pg_attribute AS a WHERE a.attrelid = shape.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS a;
        RETURN format(
            'CASE WHEN num_nonnulls(%1$s) = 1 THEN ('
            'SELECT row_to_json(%2$I.*) FROM (SELECT %3$s FROM (SELECT (%1$s).*) AS f%4$s (%5$s)) AS %2$I) END',
            value, alias, fields, depth, places
        );
    ELSIF shape.typelem >= 16384 AND changefeed.is_composite(shape.typelem) THEN
        RETURN format(
            'CASE WHEN num_nonnulls(%1$s) = 1 THEN changefeed.json_array('
            'ARRAY(SELECT %3$s FROM (SELECT unnest(%1$s) AS value) AS %2$I), '
            'ARRAY(SELECT array_length(%1$s, d) FROM generate_series(1, array_ndims(%1$s)) AS d)) END',
            value, alias, changefeed.json_value(alias || '.value', shape.typelem, is_certain, depth + 1)
        );
    END IF;
    RETURN format('CASE WHEN num_nonnulls(%1$s) = 1 THEN format(''%%s'', %1$s)::%2$s END', value, changefeed.safe_type(type));
END
$function$;

-- Whether a type is composite, or a domain over one.
CREATE OR REPLACE FUNCTION changefeed.is_composite(type oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN (
        SELECT t.typtype = 'c' OR t.typtype = 'd' AND changefeed.is_composite(t.typbasetype)
        FROM pg_type AS t WHERE t.oid = type
    );
END
$function$;

-- An array as JSON: its elements in their order, and how many there are in each dimension.
CREATE OR REPLACE FUNCTION changefeed.json_array(elements json[], lengths integer[])
RETURNS json LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    FOR dimension IN REVERSE cardinality(lengths)..2 LOOP
        elements := ARRAY(
            SELECT array_to_json(elements[n:n + lengths[dimension] - 1])
            FROM generate_series(1, cardinality(elements), lengths[dimension]) AS n
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

-- A table's columns as a list for SELECT: without those of `omit`, with hashes for those of `hash`, and with virtual generated
-- columns computed, because a trigger sees them as null.
CREATE OR REPLACE FUNCTION changefeed.column_list(target oid, options json)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    omit text[] := ARRAY(SELECT json_array_elements_text(options -> 'omit'));
    hash text[] := ARRAY(SELECT json_array_elements_text(options -> 'hash'));
    is_certain constant boolean := changefeed.trusts_columns(target);
    gone text;
BEGIN
    SELECT name INTO gone FROM unnest(omit || hash) AS name
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = target AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped
    );
    IF gone IS NOT NULL THEN
        -- Dropped, or renamed: then it must not leave the table under its new name.
        RAISE EXCEPTION 'the column % that was to be left out or hashed is gone', quote_ident(gone)
            USING HINT = 'Call changefeed.watch again.';
    END IF;
    -- Its expression would be parsed again, and the columns may have changed since it was checked.
    IF NOT is_certain AND EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped AND a.attname <> ALL (omit)
    ) THEN
        RAISE EXCEPTION 'its virtual generated columns cannot be computed for certain at this isolation level';
    END IF;
    RETURN (
        SELECT string_agg(
            CASE
                WHEN a.attname = ANY (hash)
                    THEN format('%s AS %I', changefeed.hashed_value(target, a.attname, a.atttypid, v.value), a.attname)
                WHEN a.attgenerated = 'v' THEN format('%s AS %I', v.value, a.attname)
                ELSE format('%s AS %I', changefeed.json_value(v.value, a.atttypid, is_certain), a.attname)
            END,
            ', ' ORDER BY changefeed.place(a)
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
