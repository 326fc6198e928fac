-- A row's values as JSON: each as to_json gives it, without running code of those who own the types or the table.
--
-- to_json uses the cast to json that the owner of a type may make for it, also deep within a value: in an array, a domain, a
-- composite type. It would run here as the journal's owner. So only values of trusted types go to to_json; others are
-- taken apart down to parts whose output functions can be used, since only superusers can create these.

-- Whether none but superusers and the journal's owner can have code run by to_json of a value of this type.
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

-- Whether all columns of a table are of PostgreSQL's own types, for which nobody but a superuser can make a cast. It is the table
-- that the setting changefeed.planned_for names.
--
-- This is not immutable, but said to be, so that it is answered when a statement is planned and costs nothing when the plan is used.
-- That is right in a statement that reads a transition table of that very table, and in no other: PostgreSQL plans such a
-- statement anew after each change of the table's columns. Whoever plans it makes the setting right before, so that no
-- code of others can have made it. The plan outlives the transaction: so the answer is no where the catalog is seen as it once was.
CREATE OR REPLACE FUNCTION changefeed.has_builtin_types()
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN changefeed.has_builtin_types_now();
END
$function$;

-- The same, by the catalog as it is now: this one is VOLATILE. What is not sees the catalog as the writer's statement does, for which a
-- foreign key's action is part of it; and the columns may have changed since that began.
CREATE OR REPLACE FUNCTION changefeed.has_builtin_types_now()
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN current_setting('transaction_isolation') = 'read committed' AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = current_setting('changefeed.planned_for')::oid AND a.attnum > 0 AND a.atttypid >= 16384
    );
END
$function$;

-- Whether the columns of a table are what the catalog says. In a repeatable read it says what was before an ALTER TABLE
-- that others have committed since; so that its owner may have given a column a type of their own meanwhile.
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

-- A type that has the same texts as this one and runs nobody's code: PostgreSQL's own or an extension's that is trusted, that
-- an array or a domain is of, or else text. Of an extension its schema is trusted too, or else somebody could put another
-- type in its place.
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

-- Whether a value of this type has more parts, those within parts counted wherever they stand, or parts deeper within each
-- other, than shall be taken apart: a type of two fields of a type of two fields, and so on, doubles with each level.
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
        -- A part at a time: no more are looked for than are counted.
        SELECT count(*) > 500 OR max(p.depth) > 12 FROM (SELECT depth FROM part LIMIT 501) AS p
    );
END
$function$;

-- An expression whose JSON is that of `value`, an expression of this type; or of any other, where it is not certain which.
-- That of a value with too many parts is its text.
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
    -- num_nonnulls: a composite value of nulls IS NULL, and is none.
    IF depth = 0 AND changefeed.has_too_many_parts(type) THEN
        NULL;
    ELSIF shape.typtype = 'd' THEN
        RETURN changefeed.json_value(value, shape.typbasetype, is_certain, depth);
    ELSIF shape.typtype = 'c' THEN
        -- Its attributes by their place, and each of no certain type: its owner may rename them, or put others there, at any
        -- moment. Where there is none of a name, (value).name is a call of the function of that name, and runs casts of theirs.
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

-- Also of a domain over one.
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

-- Where a column comes in the JSON of its row: that of a partition as in its root, whose order may be another.
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

-- A table's columns as a list for SELECT: without those left out, with the hashes of those to hash, and with virtual
-- generated ones computed, which a trigger sees as null.
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
            USING HINT = 'Call changefeed.watch anew.';
    END IF;
    -- Its expression would be understood anew, by columns that may have changed since it was looked at.
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
