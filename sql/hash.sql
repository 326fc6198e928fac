-- Columns that are hashed before they leave the table: equal values of one column have equal hashes, null stays null, and
-- who sees hashes only cannot find out a short value, such as a phone number, by trying them all: that takes the secret.
--
--     hash = sha256(column_key || sha256(column_key || the value's text in UTF-8)), in hex
--     column_key = sha256(secret || sha256(schema) || sha256(table) || sha256(column))
--
-- Each column has a key of its own, so that nobody who may write another table learns from its hashes what is in this one.

-- The secret of this installation. Row security without a policy: what is granted on all tables of the schema gives
-- nothing of it away; nobody but the owner ever sees the row.
DO $secret$
BEGIN
    IF to_regclass('changefeed.secret') IS NULL THEN
        CREATE TABLE changefeed.secret (
            is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
            key bytea NOT NULL  -- 244 bits of PostgreSQL's strong randomness
        );
        INSERT INTO changefeed.secret (key)
        VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
        ALTER TABLE changefeed.secret ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON changefeed.secret FROM PUBLIC;
    END IF;
END
$secret$;

-- Of a partition it is the root's key: their rows are the same table's.
CREATE OR REPLACE FUNCTION changefeed.column_key(target oid, column_name text)
RETURNS bytea LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT sha256(
        s.key || sha256(convert_to(n.nspname, 'UTF8')) || sha256(convert_to(c.relname, 'UTF8'))
        || sha256(convert_to(column_name, 'UTF8'))
    )
    FROM changefeed.secret AS s, pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = coalesce(pg_partition_root(target), target)
$function$;

-- A value's text, whatever the session's settings are. In SQL, not in plpgsql, which would run a domain's constraints, and
-- so its owner's code.
CREATE OR REPLACE FUNCTION changefeed.settled_text(value anyelement)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C' AS $function$
    SELECT format('%s', value)
$function$;

-- The expression of a column's hash; `value` is that of its value. Neither the secret nor a key stands in it, since a
-- statement may be logged.
CREATE OR REPLACE FUNCTION changefeed.hashed_value(target oid, column_name text, column_type oid, value text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    -- Types whose text depends on no setting are not worth a function's call.
    is_settled constant boolean := column_type IN (
        'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype, 'bool'::regtype, 'int2'::regtype,
        'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'uuid'::regtype, 'inet'::regtype, 'cidr'::regtype
    );
BEGIN
    -- num_nonnulls: a composite value of nulls IS NULL, and is none.
    RETURN format(
        'CASE WHEN num_nonnulls(%1$s) = 1 THEN encode(sha256(%2$s || sha256(%2$s || convert_to(%3$s, ''UTF8''))), ''hex'') END',
        value,
        format('(SELECT changefeed.column_key(%s, %L))', target, column_name),
        format(CASE WHEN is_settled THEN 'format(''%%s'', %s)' ELSE 'changefeed.settled_text(%s)' END, value)
    );
END
$function$;

-- What a value stands for in the feed, for a filter; by whoever may read the secret. As text, in the form that the
-- settings above give it.
CREATE OR REPLACE FUNCTION changefeed.hash(target regclass, column_name text, value text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    key constant bytea := changefeed.column_key(target, column_name);
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped
    ) THEN
        RAISE EXCEPTION '% has no column %', target, quote_ident(column_name) USING ERRCODE = 'undefined_column';
    END IF;
    RETURN encode(sha256(key || sha256(key || convert_to(value, 'UTF8'))), 'hex');
END
$function$;

REVOKE ALL ON FUNCTION changefeed.column_key(oid, text), changefeed.settled_text(anyelement),
    changefeed.hashed_value(oid, text, oid, text), changefeed.hash(regclass, text, text) FROM PUBLIC;
