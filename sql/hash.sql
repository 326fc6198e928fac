-- Hashes columns before they leave the table: equal values of one column have equal hashes, and null stays null. Without the
-- secret, a short value, such as a phone number, cannot be found by trying all.
--
--     hash = sha256(column_key || sha256(column_key || the value's text in UTF-8)), in hex
--     column_key = sha256(secret || sha256(schema) || sha256(table) || sha256(column))
--
-- Each column has its own key, so that a role that may write another table learns nothing about this one from its hashes.

-- The secret of this installation is in a materialized view, since a table could not protect it: a view's rows are in no
-- publication, and a dump has only its query. So a restored database has another secret, and other hashes, unless set_secret()
-- carries the old one over. The view has a schema of its own, so that grants on all tables of `changefeed` do not expose it. It has
-- no row security, which would stop pg_dump by other roles. A role that may read every table (pg_read_all_data) may read it, but
-- also the original values.

-- Only its currval() matters: it names the transaction in which this session's set_secret() passes a secret.
CREATE SEQUENCE IF NOT EXISTS changefeed.carrying MINVALUE 0 START 0;

-- Called by the view's query. Returns the secret that set_secret() passes; else the present one, so that a REFRESH changes nothing;
-- else a new one, 244 bits of PostgreSQL's strong randomness. It is passed in a setting, which any user may set; so it is accepted
-- only in the transaction that the sequence's currval() names, which only the owner can change.
--
-- Here and in set_secret() the secret is in no statement, neither as text nor as a parameter: pg_stat_statements, auto_explain and
-- the log also show statements of functions. An assignment is not a statement for PostgreSQL's executor.
CREATE OR REPLACE FUNCTION changefeed.secret_key()
RETURNS bytea LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET exit_on_error = off AS $function$
DECLARE
    key bytea;
BEGIN
    BEGIN
        IF currval('changefeed.carrying') = pg_current_xact_id()::text::bigint THEN
            RETURN decode(current_setting('changefeed.carried'), 'hex');
        END IF;
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        NULL;  -- this session has never passed one
    END;
    IF (SELECT c.relispopulated FROM pg_class AS c WHERE c.oid = to_regclass('changefeed_secret.secret')) THEN
        SELECT s.key INTO key FROM changefeed_secret.secret AS s;
    END IF;
    RETURN coalesce(key, decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
END
$function$;

-- Carries a secret over from another database, whose owner reads it by SELECT key FROM changefeed_secret.secret. Only for the schema's
-- owner. Values recorded from then on have the same hashes as there. Read it from a table, so that no statement contains it:
-- docs/database.md shows how.
CREATE OR REPLACE FUNCTION changefeed.set_secret(key bytea)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
DECLARE
    carrying bigint;
    carried text;
BEGIN
    IF key IS NULL OR octet_length(key) < 16 THEN
        RAISE EXCEPTION 'the secret must have at least 16 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    carrying := setval('changefeed.carrying', pg_current_xact_id()::text::bigint);
    carried := set_config('changefeed.carried', encode(key, 'hex'), true);
    REFRESH MATERIALIZED VIEW changefeed_secret.secret;
    carried := set_config('changefeed.carried', '', true);
    carrying := setval('changefeed.carrying', 0);
END
$function$;

DO $secret$
DECLARE
    is_new boolean := false;
    grantee text;
BEGIN
    IF to_regclass('changefeed_secret.secret') IS NULL THEN
        CREATE MATERIALIZED VIEW changefeed_secret.secret AS SELECT changefeed.secret_key() AS key;
        is_new := true;
    ELSIF NOT (SELECT c.relispopulated FROM pg_class AS c WHERE c.oid = 'changefeed_secret.secret'::regclass) THEN
        REFRESH MATERIALIZED VIEW changefeed_secret.secret;  -- the schema was restored without its contents
        is_new := true;
    END IF;
    IF is_new AND to_regclass('changefeed.secret') IS NOT NULL THEN
        -- Version 4's table, which install.sql drops once it is not in use.
        PERFORM changefeed.set_secret(s.key) FROM changefeed.secret AS s;
    END IF;
    -- Grants by ALTER DEFAULT PRIVILEGES.
    FOR grantee IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'changefeed_secret.secret'::regclass AND a.grantee <> c.relowner
        UNION
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
        WHERE n.nspname = 'changefeed_secret' AND a.grantee <> n.nspowner
    LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA changefeed_secret FROM %s', grantee);
        EXECUTE format('REVOKE ALL ON changefeed_secret.secret FROM %s', grantee);
    END LOOP;
END
$secret$;

-- A partition has its root's key, as their rows belong to the same table. Fails without a secret.
CREATE OR REPLACE FUNCTION changefeed.column_key(target oid, column_name text)
RETURNS bytea LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    key bytea;
BEGIN
    SELECT sha256(
        s.key || sha256(convert_to(n.schema_name, 'UTF8')) || sha256(convert_to(n.table_name, 'UTF8'))
        || sha256(convert_to(column_name, 'UTF8'))
    ) INTO STRICT key
    FROM changefeed_secret.secret AS s, changefeed.name_now(coalesce(pg_partition_root(target), target)) AS n;
    RETURN key;
END
$function$;

-- A value's text, independent of the session's settings. In SQL, since plpgsql would run a domain's constraints, and so its owner's
-- code.
CREATE OR REPLACE FUNCTION changefeed.settled_text(value anyelement)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C' AS $function$
    SELECT format('%s', value)
$function$;

-- The SQL expression of a column's hash; `value` is that of its value. It contains neither the secret nor a key, since statements may
-- be logged.
CREATE OR REPLACE FUNCTION changefeed.hashed_value(target oid, column_name text, column_type oid, value text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    -- Types whose text depends on no setting need no function call.
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

-- The hash that stands for a value in the feed, for use in a filter; only for roles that may read the secret. The value is a text,
-- in the form of the settings above.
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
